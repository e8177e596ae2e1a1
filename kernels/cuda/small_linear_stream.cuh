// small_linear where there is a copy engine (sm_90a): a block on each multiprocessor, whose weights come in one
// unbroken stream through a ring of shared memory, tile after tile; some warps ask for them, others multiply.
//
// A tile's outputs are as many, up to 32, as give every block the same number of tiles. Units of columns belong to
// warps, and warps are added up, as in small_linear.cu's other kernel: the results have the same bits.
#pragma once

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/small_linear_tile.cuh"

namespace spotlight::kernels::cuda {

inline constexpr int kStreamOutputs = 32;  // most of a tile
inline constexpr int kStageRow = 2048;     // bytes of an output's weights, at a time
inline constexpr int kStreamStages = 3;
inline constexpr int kAskingWarps = 4;
inline constexpr int kStreamThreads = 32 * (kLinearWarps + kAskingWarps);
// Rows of weights lie 64 bytes further than they are long: what 8 lanes read together is in different banks.
inline constexpr int kStageRowBytes = kStageRow + 64;
inline constexpr int kStageBytes = kStreamOutputs * kStageRowBytes;
inline constexpr int kPartialFloats = 2 * kLinearWarps * kStreamOutputs * kTileRows;  // 16 rows, or 8 twice
inline constexpr int kStreamSharedBytes = kStreamStages * kStageBytes + kPartialFloats * 4;

struct StreamShape {
  int32_t tile_outputs, blocks;
  StreamShape(const SmallLinearParams& params, int num_processors) {
    const int32_t rounds = (params.num_out + kStreamOutputs * num_processors - 1) / (kStreamOutputs * num_processors);
    tile_outputs = (params.num_out + rounds * num_processors - 1) / (rounds * num_processors);
    const int32_t tiles = (params.num_out + tile_outputs - 1) / tile_outputs;
    blocks = tiles < num_processors ? tiles : num_processors;
  }
};

// Grid (blocks), block (kStreamThreads). W: the weights' type, T or __nv_fp8_e4m3. Rows of x: up to 8 kRowTiles.
template <typename T, typename W, int kRowTiles>
__global__ void __launch_bounds__(kStreamThreads, 1)
    StreamLinearOutputs(const SmallLinearParams params, const int32_t tile_outputs) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char dynamic_shared[];
  __shared__ uint64_t filled[kStreamStages], emptied[kStreamStages];
  static_assert(kRowTiles <= 2);
  constexpr int kStageColumns = kStageRow / static_cast<int>(sizeof(W));
  float* const partials = reinterpret_cast<float*>(dynamic_shared + kStreamStages * kStageBytes);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int32_t tiles = (params.num_out + tile_outputs - 1) / tile_outputs;
  const int32_t stages = (params.num_in + kStageColumns - 1) / kStageColumns;  // of a tile
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStreamStages; ++stage) {
      InitBarrier(&filled[stage]);
      InitBarrier(&emptied[stage], kLinearWarps);
    }
    FenceBarrierInit();
  }
  __syncthreads();
  int slot = 0;
  uint32_t phase = 0;
  const auto next_slot = [&] {
    if (++slot < kStreamStages) return;
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
          BulkCopy(dynamic_shared + slot * kStageBytes + output * kStageRowBytes,
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
    Accumulator sums[kRowTiles][2] = {};
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
          dynamic_shared + slot * kStageBytes + group * kStageRowBytes + warp * kUnit * sizeof(W) + 16 * (lane % 4);
#pragma unroll
      for (int i = 0; i < kUnits; ++i) {
        if (first_unit + i * kLinearWarps >= units) continue;
        WeightUnit<W, 2> w;
#pragma unroll
        for (int row = 0; row < 4; ++row) {
          const char* const from = rows + row * 8 * kStageRowBytes + i * kLinearWarps * kUnit * sizeof(W);
#pragma unroll
          for (int piece = 0; piece < kPieces<W>; ++piece) {
            w.at[row / 2][row % 2][piece] = *reinterpret_cast<const uint4*>(from + 64 * piece);
          }
        }
        MultiplyUnit<T>(w, x[i], sums);
      }
      __syncwarp();
      if (lane == 0) Arrive(&emptied[slot]);
      next_slot();
    }
    constexpr int kRows = kTileRows * kRowTiles;
    const auto share = [&](int w, int output) { return partial + (w * kStreamOutputs + output) * kRows; };
#pragma unroll
    for (int i = 0; i < 8 * kRowTiles; ++i) {
      const int r = i / 8, part = i % 4, output = i / 4 % 2 * kTileOutputs + group + part / 2 * 8;
      share(warp, output)[kTileRows * r + 2 * (lane % 4) + part % 2] = sums[r][i / 4 % 2].at[part];
    }
    const auto sync = [] { asm volatile("barrier.sync 1, %0;" ::"n"(32 * kLinearWarps) : "memory"); };
    sync();
    const int32_t first = tile * tile_outputs, outputs = min(tile_outputs, params.num_out - first);
    const int output = threadIdx.x % kStreamOutputs;
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      const int row = threadIdx.x / kStreamOutputs + kTileRows * r;
      if (output >= outputs || row >= params.num_rows) continue;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kLinearWarps; ++w) sum += share(w, output)[row];
      StoreOutput<T>(params, sum, row, first + output);
    }
    if (kRowTiles == 1) {  // who is late may still read this half
      partial = partial == partials ? partials + kPartialFloats / 2 : partials;
    } else {
      sync();
    }
  }
#endif
}

}  // namespace spotlight::kernels::cuda
