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

inline constexpr int kStreamOutputs = 32;   // most of a tile
inline constexpr int kStageColumns = 1024;  // of a tile, at a time
inline constexpr int kStreamStages = 3;
inline constexpr int kAskingWarps = 4;
inline constexpr int kStreamThreads = 32 * (kLinearWarps + kAskingWarps);
// Rows of weights lie 64 bytes further than they are long: what 8 lanes read together is in different banks.
inline constexpr int kStageRowBytes = 2 * kStageColumns + 64;
inline constexpr int kStageBytes = kStreamOutputs * kStageRowBytes;
inline constexpr int kPartialFloats = kLinearWarps * kStreamOutputs * kRows;
inline constexpr int kStreamSharedBytes = kStreamStages * kStageBytes + 2 * kPartialFloats * 4;

struct StreamShape {
  int32_t tile_outputs, blocks;
  StreamShape(const SmallLinearParams& params, int num_processors) {
    const int32_t rounds = (params.num_out + kStreamOutputs * num_processors - 1) / (kStreamOutputs * num_processors);
    tile_outputs = (params.num_out + rounds * num_processors - 1) / (rounds * num_processors);
    const int32_t tiles = (params.num_out + tile_outputs - 1) / tile_outputs;
    blocks = tiles < num_processors ? tiles : num_processors;
  }
};

// Grid (blocks), block (kStreamThreads).
template <typename T>
__global__ void __launch_bounds__(kStreamThreads, 1)
    StreamLinearOutputs(const SmallLinearParams params, const int32_t tile_outputs) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) char dynamic_shared[];
  __shared__ uint64_t filled[kStreamStages], emptied[kStreamStages];
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
          static_cast<const char*>(params.weight) + int64_t{first} * params.num_in * int64_t{sizeof(T)};
#pragma unroll 1
      for (int32_t stage = 0; stage < stages; ++stage) {
        const int32_t column = stage * kStageColumns;
        const int32_t bytes = min(kStageColumns, params.num_in - column) * static_cast<int32_t>(sizeof(T));
        WaitForPhase(&emptied[slot], phase ^ 1);
        if (asking == 0 && lane == 0) ExpectBytes(&filled[slot], outputs * bytes);
        const int32_t output = asking + kAskingWarps * lane;
        if (output < outputs) {
          BulkCopy(dynamic_shared + slot * kStageBytes + output * kStageRowBytes,
                   weights + (int64_t{output} * params.num_in + column) * int64_t{sizeof(T)}, bytes, &filled[slot]);
        }
        next_slot();
      }
    }
    WaitForPrevious();
    AllowNext();
    return;
  }

  const int group = lane / 4, units = params.num_in / kUnit;
  const bool has_input = group < params.num_rows;
  const T* const input =
      static_cast<const T*>(params.x) + int64_t{has_input ? group : 0} * params.num_in + 8 * (lane % 4);
  WaitForPrevious();
  AllowNext();  // not before: at most two kernels of the stream overlap
  float* partial = partials;
#pragma unroll 1
  for (int32_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    Accumulator sums[2] = {};
#pragma unroll 1
    for (int32_t stage = 0; stage < stages; ++stage) {
      constexpr int kUnits = kStageColumns / kUnit / kLinearWarps;  // of a warp
      const int first_unit = stage * (kStageColumns / kUnit) + warp;
      InputUnit x[kUnits] = {};
#pragma unroll
      for (int i = 0; i < kUnits; ++i) {
        const int unit = first_unit + i * kLinearWarps;
        if (!has_input || unit >= units) continue;
        x[i].at[0] = *reinterpret_cast<const uint4*>(input + unit * kUnit);
        x[i].at[1] = *reinterpret_cast<const uint4*>(input + unit * kUnit + 32);
      }
      WaitForPhase(&filled[slot], phase);
      const char* const rows =
          dynamic_shared + slot * kStageBytes + group * kStageRowBytes + (warp * kUnit + 8 * (lane % 4)) * sizeof(T);
#pragma unroll
      for (int i = 0; i < kUnits; ++i) {
        if (first_unit + i * kLinearWarps >= units) continue;
        WeightUnit<2> w;
#pragma unroll
        for (int row = 0; row < 4; ++row) {
          const char* const from = rows + row * 8 * kStageRowBytes + i * kLinearWarps * kUnit * sizeof(T);
          w.at[row / 2][row % 2][0] = *reinterpret_cast<const uint4*>(from);
          w.at[row / 2][row % 2][1] = *reinterpret_cast<const uint4*>(from + 32 * sizeof(T));
        }
        MultiplyUnit<T, 2>(w, x[i], sums);
      }
      __syncwarp();
      if (lane == 0) Arrive(&emptied[slot]);
      next_slot();
    }
    const int row = 2 * (lane % 4);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int output = i / 4 * kTileOutputs + group + i % 4 / 2 * 8;
      partial[(warp * kStreamOutputs + output) * kRows + row + i % 2] = sums[i / 4].at[i % 4];
    }
    asm volatile("barrier.sync 1, %0;" ::"n"(32 * kLinearWarps) : "memory");
    const int32_t first = tile * tile_outputs, outputs = min(tile_outputs, params.num_out - first);
    const int output = threadIdx.x % kStreamOutputs, row_of = threadIdx.x / kStreamOutputs;
    if (output < outputs && row_of < params.num_rows) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kLinearWarps; ++w) sum += partial[(w * kStreamOutputs + output) * kRows + row_of];
      if (params.bias != nullptr) sum += ToFloat(static_cast<const T*>(params.bias)[first + output]);
      RoundTo(sum, static_cast<T*>(params.out) + row_of * int64_t{params.num_out} + first + output);
    }
    partial = partial == partials ? partials + kPartialFloats : partials;  // who is late may still read this one
  }
#endif
}

}  // namespace spotlight::kernels::cuda
