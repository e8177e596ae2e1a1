// small_linear where there is a copy engine (sm_90a): a block on each multiprocessor, whose weights come in one
// unbroken stream through a ring of shared memory, tile after tile; some warps ask for them, others multiply.
//
// A tile's outputs are as many, up to 32 or 48, as give every block the same number of tiles. Units of columns belong
// to warps, and warps are added up, as in small_linear.cu's other kernel: the results have the same bits.
#pragma once

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/small_linear_tile.cuh"

namespace spotlight::kernels::cuda {

// W: the weights' type. Rows of x: up to 8 kRowTiles.
template <typename W, int kRowTiles>
struct StreamLayout {
  static constexpr bool kFp8 = sizeof(W) == 1;
  // Blocks read all of x for each of their tiles: with many rows, and weights of half the bytes, more outputs make one.
  static constexpr int kTiles = kFp8 && kRowTiles > 1 ? 3 : 2;
  static constexpr int kOutputs = kTiles * kTileOutputs;  // most of a tile
  // Of a tile, at a time. Copies of 2 KB are faster than of 1 KB.
  static constexpr int kStageColumns = kFp8 && kRowTiles == 1 ? 2048 : 1024;
  static constexpr int kStages = 3;
  // Rows of weights lie 64 bytes further than they are long: what 8 lanes read together is in different banks.
  static constexpr int kRowBytes = kStageColumns * static_cast<int>(sizeof(W)) + 64;
  static constexpr int kStageBytes = kOutputs * kRowBytes;
  // Partial sums [warp][row][output], rows 4 further than they are long for the same reason; few rows have two of
  // these.
  static constexpr int kRows = kRowTiles * kTileRows, kPartialRow = kOutputs + 4;
  static constexpr int kPartials = kLinearWarps * kRows * kPartialRow, kPartialBuffers = kRowTiles > 1 ? 1 : 2;
  static constexpr int kSharedBytes = kStages * kStageBytes + kPartialBuffers * kPartials * 4;
  // Few threads have registers for many rows.
  static constexpr int kAskingWarps = kRowTiles > 2 ? 2 : 4;
  static constexpr int kThreads = 32 * (kLinearWarps + kAskingWarps);
  static_assert(kSharedBytes <= 226 * 1024);
};

struct StreamShape {
  int32_t tile_outputs, blocks;
  // At most `max_outputs` to a tile.
  StreamShape(const SmallLinearParams& params, int max_outputs, int num_processors) {
    const int32_t rounds = (params.num_out + max_outputs * num_processors - 1) / (max_outputs * num_processors);
    tile_outputs = (params.num_out + rounds * num_processors - 1) / (rounds * num_processors);
    const int32_t tiles = (params.num_out + tile_outputs - 1) / tile_outputs;
    blocks = tiles < num_processors ? tiles : num_processors;
  }
};

// Grid (blocks), block (StreamLayout::kThreads). W is T or __nv_fp8_e4m3.
template <typename T, typename W, int kRowTiles>
__global__ void __launch_bounds__(StreamLayout<W, kRowTiles>::kThreads, 1)
    StreamLinearOutputs(const SmallLinearParams params, const int32_t tile_outputs) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char dynamic_shared[];
  using Layout = StreamLayout<W, kRowTiles>;
  constexpr int kStages = Layout::kStages, kStageBytes = Layout::kStageBytes, kRowBytes = Layout::kRowBytes;
  constexpr int kTiles = Layout::kTiles, kAskingWarps = Layout::kAskingWarps, kStageColumns = Layout::kStageColumns;
  __shared__ uint64_t filled[kStages], emptied[kStages];
  float* const partials = reinterpret_cast<float*>(dynamic_shared + kStages * kStageBytes);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int32_t tiles = (params.num_out + tile_outputs - 1) / tile_outputs;
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
    for (int32_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      const int32_t first = tile * tile_outputs, outputs = min(tile_outputs, params.num_out - first);
      const char* const weights =
          static_cast<const char*>(params.weight) + int64_t{first} * params.num_in * int64_t{sizeof(W)};
#pragma unroll 1
      for (int32_t stage = 0; stage < stages; ++stage) {
        const int32_t column = stage * kStageColumns;
        const int32_t bytes = min(kStageColumns, params.num_in - column) * static_cast<int32_t>(sizeof(W));
        WaitForPhase(&emptied[slot], phase ^ 1);
        if (asking == 0 && lane == 0) ExpectBytes(&filled[slot], outputs * bytes);
        const int32_t output = asking + kAskingWarps * lane;
        if (output < outputs) {
          BulkCopy(dynamic_shared + slot * kStageBytes + output * kRowBytes,
                   weights + (int64_t{output} * params.num_in + column) * int64_t{sizeof(W)}, bytes, &filled[slot]);
        }
        next_slot();
      }
    }
    WaitForPrevious();
    AllowNext();
    return;
  }

  const int group = lane / 4, units = params.num_in / kUnit;
  const auto has_input = [&](int r) { return group + kTileRows * r < params.num_rows; };
  const T* const inputs = static_cast<const T*>(params.x);
  WaitForPrevious();
  AllowNext();  // not before: at most two kernels of the stream overlap
  float* partial = partials;
#pragma unroll 1
  for (int32_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    Accumulator sums[kRowTiles][kTiles] = {};
#pragma unroll 1
    for (int32_t stage = 0; stage < stages; ++stage) {
      constexpr int kUnits = kStageColumns / kUnit / kLinearWarps;  // of a warp
      const int first_unit = stage * (kStageColumns / kUnit) + warp;
      InputUnit x[kUnits][kRowTiles] = {};
#pragma unroll
      for (int i = 0; i < kUnits; ++i) {
        const int unit = first_unit + i * kLinearWarps;
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
          if (!has_input(r) || unit >= units) continue;
          const T* const from = inputs + int64_t{group + kTileRows * r} * params.num_in + unit * kUnit;
          x[i][r].at[0] = *reinterpret_cast<const uint4*>(from + InputColumn<W>(lane, 0));
          x[i][r].at[1] = *reinterpret_cast<const uint4*>(from + InputColumn<W>(lane, 1));
        }
      }
      WaitForPhase(&filled[slot], phase);
      const char* const rows =
          dynamic_shared + slot * kStageBytes + group * kRowBytes + warp * kUnit * sizeof(W) + 16 * (lane % 4);
#pragma unroll
      for (int i = 0; i < kUnits; ++i) {
        if (first_unit + i * kLinearWarps >= units) continue;
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
          MultiplyUnit<T, kTiles>(w, x[i], sums);
        } else {
          MultiplyUnit<T, 2>(w, x[i], sums);
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
    const auto sync = [] { asm volatile("barrier.sync 1, %0;" ::"n"(32 * kLinearWarps) : "memory"); };
    sync();
    const int32_t first = tile * tile_outputs, outputs = min(tile_outputs, params.num_out - first);
    for (int i = threadIdx.x; i < Layout::kOutputs * params.num_rows; i += 32 * kLinearWarps) {
      const int output = i % Layout::kOutputs, row = i / Layout::kOutputs;
      if (output >= outputs) continue;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kLinearWarps; ++w) sum += *share(w, row, output);
      StoreOutput<T>(params, sum, row, first + output);
    }
    if (Layout::kPartialBuffers == 2) {  // who is late may still read this one
      partial = partial == partials ? partials + Layout::kPartials : partials;
    } else {
      sync();
    }
  }
#endif
}

}  // namespace spotlight::kernels::cuda
