// small_linear where there is a copy engine (sm_90a): a block on each multiprocessor, whose weights come in one
// unbroken stream through a ring of shared memory, tile after tile; some warps ask for them, others multiply.
//
// A tile's outputs are as many, up to 32 or 48, as give every block the same number of tiles. Units of columns belong
// to warps, and warps are added up, as in small_linear.cu's other kernel: the results have the same bits.
#pragma once

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/small_linear_operands.cuh"
#include "kernels/cuda/small_linear_tile.cuh"

namespace spotlight::kernels::cuda {

// W: the weights' type. Rows of x: up to 8 kRowTiles.
template <typename W, bool kNorm, int kRowTiles>
struct StreamLayout {
  // Blocks read all of x for each of their tiles: with many rows more outputs make one.
  static constexpr int kTiles = kRowTiles > 1 ? 3 : 2;
  static constexpr int kOutputs = kTiles * kTileOutputs;  // most of a tile
  // Of a tile, at a time. Copies of 2 KB are faster than of 1 KB.
  static constexpr int kStageColumns = (kRowTiles == 1 ? 2048 : 1024) / static_cast<int>(sizeof(W));
  static constexpr int kStages = 3;
  // Rows of weights lie 64 bytes further than they are long: what 8 lanes read together is in different banks.
  static constexpr int kRowBytes = kStageColumns * static_cast<int>(sizeof(W)) + 64;
  static constexpr int kStageBytes = kOutputs * kRowBytes;
  // Partial sums [warp][row][output], rows 4 further than they are long for the same reason: two of these where there
  // is room. A norm's weight follows.
  static constexpr int kRows = kRowTiles * kTileRows, kPartialRow = kOutputs + 4;
  static constexpr int kPartials = kLinearWarps * kRows * kPartialRow, kPartialBuffers = kNorm || kRowTiles > 1 ? 1 : 2;
  static constexpr int kSharedBytes = kStages * kStageBytes + kPartialBuffers * kPartials * 4;
  // Few threads have registers for many rows.
  static constexpr int kAskingWarps = kRowTiles > 2 ? 2 : 4;
  static constexpr int kThreads = 32 * (kLinearWarps + kAskingWarps);
  static_assert(kSharedBytes + (kNorm ? kMaxSmallLinearNorm * 2 : 0) <= 224 * 1024);
};

struct StreamShape {
  int32_t tile_outputs, blocks;
  // At most `max_outputs` to a tile.
  StreamShape(const SmallLinearParams& params, int max_outputs, int num_processors) {
    static_assert(kTileOutputs % 2 == 0);
    const int32_t rounds = (params.num_out + max_outputs * num_processors - 1) / (max_outputs * num_processors);
    tile_outputs = (params.num_out + rounds * num_processors - 1) / (rounds * num_processors);
    if (params.result == SmallLinearResult::kSiluMul) tile_outputs += tile_outputs % 2;
    const int32_t tiles = (params.num_out + tile_outputs - 1) / tile_outputs;
    blocks = tiles < num_processors ? tiles : num_processors;
  }
};

// Grid (blocks), block (StreamLayout::kThreads). W is T or __nv_fp8_e4m3. kNorm: there is a norm_weight.
template <typename T, typename W, bool kNorm, int kRowTiles>
__global__ void __launch_bounds__(StreamLayout<W, kNorm, kRowTiles>::kThreads, 1)
    StreamLinearOutputs(const SmallLinearParams params, const int32_t tile_outputs) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char dynamic_shared[];
  using Layout = StreamLayout<W, kNorm, kRowTiles>;
  constexpr int kStages = Layout::kStages, kStageBytes = Layout::kStageBytes, kRowBytes = Layout::kRowBytes;
  constexpr int kTiles = Layout::kTiles, kAskingWarps = Layout::kAskingWarps, kStageColumns = Layout::kStageColumns;
  __shared__ uint64_t filled[kStages], emptied[kStages];
  __shared__ float squares[kLinearWarps][Layout::kRows];  // of a normed x
  float* const partials = reinterpret_cast<float*>(dynamic_shared + kStages * kStageBytes);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int32_t tiles = (params.num_out + tile_outputs - 1) / tile_outputs;
  const auto tile_of = [&](int32_t tile) {
    return OutputTile{tile * tile_outputs, min(tile_outputs, params.num_out - tile * tile_outputs)};
  };
  const int32_t stages = (params.num_in + kStageColumns - 1) / kStageColumns;  // of a tile
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      InitBarrier(&filled[stage]);
      InitBarrier(&emptied[stage], kLinearWarps);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  int slot = 0;
  uint32_t phase = 0;
  const auto next_slot = [&] {
    if (++slot < kStages) return;
    slot = 0;
    phase ^= 1;
  };

  if (warp >= kLinearWarps) {
    const int asking = warp - kLinearWarps;
#pragma unroll 1
    for (int32_t index = blockIdx.x; index < tiles; index += gridDim.x) {
      const OutputTile tile = tile_of(index);
      const int output = asking + kAskingWarps * lane;
      const char* const weights =
          static_cast<const char*>(params.weight) + tile.MatrixRow(params, output) * params.num_in * int64_t{sizeof(W)};
#pragma unroll 1
      for (int32_t stage = 0; stage < stages; ++stage) {
        const int32_t column = stage * kStageColumns;
        const int32_t bytes = min(kStageColumns, params.num_in - column) * static_cast<int32_t>(sizeof(W));
        WaitForPhase(&emptied[slot], phase ^ 1);
        if (asking == 0 && lane == 0) ExpectBytes(&filled[slot], tile.count * bytes);
        if (output < tile.count) {
          BulkCopy(dynamic_shared + slot * kStageBytes + output * kRowBytes, weights + column * int64_t{sizeof(W)},
                   bytes, &filled[slot]);
        }
        next_slot();
      }
    }
    WaitForPrevious();
    AllowNext();
    return;
  }

  const int group = lane / 4, units = params.num_in / kUnit;
  using Input = Inputs<T, W, kNorm, kRowTiles>;
  T* const gains = reinterpret_cast<T*>(partials + Layout::kPartialBuffers * Layout::kPartials);
  Input inputs(params, gains);
  constexpr int kUnits = kStageColumns / kUnit / kLinearWarps;  // of a warp, in a stage
  const auto unit_of = [&](int32_t stage, int i) { return stage * (kStageColumns / kUnit) + i * kLinearWarps + warp; };
  const auto load = [&](int32_t stage, auto& to) {
#pragma unroll
    for (int i = 0; i < kUnits; ++i) {
      if (unit_of(stage, i) < units) inputs.Load(unit_of(stage, i), to[i]);
    }
  };
  if constexpr (kNorm) {
    // Wanted for every tile, and memory that is busy with weights takes long to answer.
    for (int i = threadIdx.x; i < params.num_in / kVector; i += 32 * kLinearWarps) {
      reinterpret_cast<Vector<T>*>(gains)[i] = static_cast<const Vector<T>*>(params.norm_weight)[i];
    }
    SyncLinearWarps();
  }
  WaitForPrevious();
  AllowNext();  // not before: at most two kernels of the stream overlap
  // For the same reason x comes a stage ahead where registers allow.
  constexpr bool kAhead = kUnits * kRowTiles <= 4;
  typename Input::Unit ahead[kUnits] = {};
  if (kAhead) load(0, ahead);
  float* partial = partials;
#pragma unroll 1
  for (int32_t index = blockIdx.x; index < tiles; index += gridDim.x) {
    const OutputTile tile = tile_of(index);
    const int32_t results = tile.Results(params);
    const auto has_result = [&](int i) {
      return i / Layout::kOutputs < params.num_rows && i % Layout::kOutputs < results;
    };
    constexpr int kResults = (Layout::kOutputs * Layout::kRows - 1) / (32 * kLinearWarps) + 1;  // of a thread
    Result<T> result[kResults];
    const auto prepare = [&] {
#pragma unroll
      for (int i = 0; i < kResults; ++i) {
        const int at = threadIdx.x + i * 32 * kLinearWarps;
        if (has_result(at)) result[i] = Result<T>(params, tile, at / Layout::kOutputs, at % Layout::kOutputs);
      }
    };
    // What goes with the sums, while the weights are on their way; where it is much, when registers are free.
    if (kResults == 1) prepare();
    Accumulator sums[kRowTiles][kTiles] = {};
#pragma unroll 1
    for (int32_t stage = 0; stage < stages; ++stage) {
      typename Input::Unit input[kUnits] = {};
      if (kAhead) {
#pragma unroll
        for (int i = 0; i < kUnits; ++i) {
          for (int r = 0; r < kRowTiles; ++r) input[i][r] = ahead[i][r];
        }
        load(stage + 1 < stages ? stage + 1 : 0, ahead);
      } else {
        load(stage, input);
      }
      if constexpr (kNorm) {
#pragma unroll
        for (int i = 0; i < kUnits; ++i) {
          if (unit_of(stage, i) >= units) continue;
          typename Input::Gains gains_of;
          inputs.Load(unit_of(stage, i), &gains_of);
          if (index == blockIdx.x) inputs.AddUnitSquares(input[i]);
          Input::Multiply(gains_of, input[i]);
        }
      }
      WaitForPhase(&filled[slot], phase);
      const char* const rows =
          dynamic_shared + slot * kStageBytes + group * kRowBytes + warp * kUnit * sizeof(W) + 16 * (lane % 4);
#pragma unroll
      for (int i = 0; i < kUnits; ++i) {
        if (unit_of(stage, i) >= units) continue;
        WeightUnit<W, kTiles> w;
#pragma unroll
        for (int row = 0; row < 2 * kTiles; ++row) {
          const char* const from = rows + row * 8 * kRowBytes + i * kLinearWarps * kUnit * sizeof(W);
#pragma unroll
          for (int piece = 0; piece < kPieces<W>; ++piece) {
            w.at[row / 2][row % 2][piece] = *reinterpret_cast<const uint4*>(from + 64 * piece);
          }
        }
        // Widening costs more than a product; a branch for each product, more than that.
        if (kTiles == 2 || tile_outputs > (kTiles - 1) * kTileOutputs) {
          MultiplyUnit<T, kTiles>(w, input[i], sums);
        } else {
          MultiplyUnit<T, 2>(w, input[i], sums);
        }
      }
      __syncwarp();
      if (lane == 0) Arrive(&emptied[slot]);
      next_slot();
    }
    const auto share = [partial](int w, int row, int output) {
      return partial + (w * Layout::kRows + row) * Layout::kPartialRow + output;
    };
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int i = 0; i < 4 * kTiles; ++i) {
        const int output = i / 4 * kTileOutputs + group + i % 4 / 2 * 8;
        *share(warp, kTileRows * r + 2 * (lane % 4) + i % 2, output) = sums[r][i / 4].at[i % 4];
      }
    }
    if (kNorm && index == blockIdx.x) inputs.Share(squares[warp]);
    if (kResults > 1) prepare();
    SyncLinearWarps();
#pragma unroll
    for (int i = 0; i < kResults; ++i) {
      const int at = threadIdx.x + i * 32 * kLinearWarps, row = at / Layout::kOutputs, output = at % Layout::kOutputs;
      if (!has_result(at)) continue;
      const auto sum_of = [&](int of) {
        float sum = 0;
#pragma unroll
        for (int w = 0; w < kLinearWarps; ++w) sum += *share(w, row, of);
        return sum;
      };
      const float scale =
          kNorm ? NormScale(&squares[0][row], kLinearWarps, Layout::kRows, params.num_in, params.norm_eps) : 1;
      result[i].Store(params, scale, sum_of(output), OutputTile::Gated(params) ? sum_of(output + results) : 0);
    }
    if (Layout::kPartialBuffers == 2) {  // who is late may still read this one
      partial = partial == partials ? partials + Layout::kPartials : partials;
    } else {
      SyncLinearWarps();
    }
  }
#endif
}

}  // namespace spotlight::kernels::cuda
