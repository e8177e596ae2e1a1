// Two kernels, whose results have the same bits: small_linear_stream.cuh's for sm_90a, and here the one for every other
// chip.
//
// A block makes 16 or 32 outputs of every row: its warps share out K in units of 64, each warp a unit in turn, and add
// up in shared memory in the order of the warps. Products run on tensor cores, weights as the 16-row operand, straight
// from memory into registers: which of a unit's columns a fragment's place holds does not matter as long as weights and
// x agree, so each thread takes 16 bytes of a row as they lie.
#include "kernels/cuda/small_linear.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/small_linear_stream.cuh"
#include "kernels/cuda/small_linear_tile.cuh"

namespace spotlight::kernels::cuda {
namespace {

constexpr int kThreads = 32 * kLinearWarps;

// Read once: kept out of L1.
__device__ uint4 LoadWeights(const void* address) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address));
  return v;
}

template <typename T, int kTiles>
class Operands {
 public:
  __device__ explicit Operands(const SmallLinearParams& params) {
    const int lane = threadIdx.x % 32, group = lane / 4;
    const int64_t offset = 8 * (lane % 4);
    for (int tile = 0; tile < kTiles; ++tile) {
      for (int half = 0; half < 2; ++half) {
        const int output = (blockIdx.x * kTiles + tile) * kTileOutputs + group + 8 * half;
        // Past the end: the last row once more; its sums go nowhere.
        const int64_t row = min(output, params.num_out - 1);
        weights_[tile][half] = static_cast<const T*>(params.weight) + row * params.num_in + offset;
      }
    }
    has_input_ = group < params.num_rows;
    input_ = static_cast<const T*>(params.x) + int64_t{has_input_ ? group : 0} * params.num_in + offset;
  }

  __device__ void Load(int unit, WeightUnit<kTiles>* to) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const T* const from = weights_[tile][half] + int64_t{unit} * kUnit;
        to->at[tile][half][0] = LoadWeights(from);
        to->at[tile][half][1] = LoadWeights(from + 32);
      }
    }
  }
  __device__ void Load(int unit, InputUnit* to) const {
    if (!has_input_) return;
    const T* const from = input_ + int64_t{unit} * kUnit;
    to->at[0] = *reinterpret_cast<const uint4*>(from);
    to->at[1] = *reinterpret_cast<const uint4*>(from + 32);
  }

 private:
  const T* weights_[kTiles][2];
  const T* input_;
  bool has_input_;
};

// Grid (ceil(N / (16 kTiles))), block (kThreads). kStages units of a warp are on their way at a time.
template <typename T, int kTiles, int kStages>
__global__ void __launch_bounds__(kThreads) SmallLinearOutputs(const SmallLinearParams params) {
  constexpr int kOutputs = kTiles * kTileOutputs;
  __shared__ float partial[kLinearWarps][kOutputs][kRows];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int units = params.num_in / kUnit;
  const Operands<T, kTiles> operands(params);
  WeightUnit<kTiles> w[kStages];
  InputUnit x[kStages] = {};
#pragma unroll
  for (int stage = 0; stage < kStages; ++stage) {
    const int unit = warp + stage * kLinearWarps;
    if (unit < units) operands.Load(unit, &w[stage]);
  }
  WaitForPrevious();
  AllowNext();  // not before: at most two kernels of the stream overlap
#pragma unroll
  for (int stage = 0; stage < kStages; ++stage) {
    const int unit = warp + stage * kLinearWarps;
    if (unit < units) operands.Load(unit, &x[stage]);
  }
  Accumulator sums[kTiles] = {};
  for (int base = warp; base < units; base += kStages * kLinearWarps) {
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) {
      const int unit = base + stage * kLinearWarps, next = unit + kStages * kLinearWarps;
      if (unit < units) MultiplyUnit<T, kTiles>(w[stage], x[stage], sums);
      if (next < units) {
        operands.Load(next, &w[stage]);
        operands.Load(next, &x[stage]);
      }
    }
  }

  const int group = lane / 4, row = 2 * (lane % 4);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    for (int i = 0; i < 4; ++i) {
      partial[warp][tile * kTileOutputs + group + 8 * (i / 2)][row + i % 2] = sums[tile].at[i];
    }
  }
  __syncthreads();
  const int64_t begin = int64_t{blockIdx.x} * kOutputs;
  for (int i = threadIdx.x; i < kOutputs * params.num_rows; i += kThreads) {
    const int row_of = i / kOutputs, output = i % kOutputs;
    if (begin + output >= params.num_out) continue;
    float sum = 0;
    for (int w_index = 0; w_index < kLinearWarps; ++w_index) sum += partial[w_index][output][row_of];
    if (params.bias != nullptr) sum += ToFloat(static_cast<const T*>(params.bias)[begin + output]);
    RoundTo(sum, static_cast<T*>(params.out) + row_of * int64_t{params.num_out} + begin + output);
  }
}

// Whether the device runs code of sm_90a: what StreamLinear is made of.
template <typename T>
bool Streams(LaunchSequence* sequence) {
  return sequence->CanWait(reinterpret_cast<const void*>(&StreamLinearOutputs<T>));
}

int NumProcessors(LaunchSequence* sequence) {
  int device = 0, count = 1;
  sequence->Check(cudaGetDevice(&device));
  sequence->Check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

template <typename T>
int LaunchSmallLinear(const SmallLinearParams& params) {
  LaunchSequence sequence(params.execution.stream);
  LaunchOptions options;
  options.overlap_previous = true;
  if (Streams<T>(&sequence)) {
    const StreamShape shape(params, NumProcessors(&sequence));
    const auto kernel = StreamLinearOutputs<T>;
    sequence.Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kStreamSharedBytes));
    sequence.LaunchWith(options, kernel, dim3(shape.blocks), dim3(kStreamThreads), kStreamSharedBytes, params,
                        shape.tile_outputs);
    return sequence.error();
  }
  // Every block reads all of x: with many rows that is as much as a tile's weights, so a block then makes two tiles.
  const bool wide = params.num_rows > 4 && params.num_out % (2 * kTileOutputs) == 0;
  const int outputs = wide ? 2 * kTileOutputs : kTileOutputs;
  const dim3 grid((params.num_out + outputs - 1) / outputs), block(kThreads);
  if (wide) {
    sequence.LaunchWith(options, SmallLinearOutputs<T, 2, 2>, grid, block, 0, params);
  } else {
    sequence.LaunchWith(options, SmallLinearOutputs<T, 1, 3>, grid, block, 0, params);
  }
  return sequence.error();
}

}  // namespace

int SmallLinear(const SmallLinearParams& params) {
  return params.dtype == DType::kBF16 ? LaunchSmallLinear<__nv_bfloat16>(params) : LaunchSmallLinear<__half>(params);
}

}  // namespace spotlight::kernels::cuda
