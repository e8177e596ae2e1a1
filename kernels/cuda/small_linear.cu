// Two kernels, whose results have the same bits: small_linear_stream.cuh's for sm_90a, and here the one for every other
// chip.
//
// A block makes 16 or 32 outputs of every row: its warps share out K in units of 64, each warp a unit in turn, and add
// up in shared memory in the order of the warps. Products run on tensor cores, weights as the 16-row operand, straight
// from memory into registers: which of a unit's columns a fragment's place holds does not matter as long as weights and
// x agree, so each thread takes 16 bytes of a row as they lie. Weights of 8 bits are widened there.
#include "kernels/cuda/small_linear.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

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

template <typename T, typename W, int kTiles, int kRowTiles>
class Operands {
 public:
  __device__ explicit Operands(const SmallLinearParams& params) {
    const int lane = threadIdx.x % 32, group = lane / 4;
    for (int tile = 0; tile < kTiles; ++tile) {
      for (int half = 0; half < 2; ++half) {
        const int output = (blockIdx.x * kTiles + tile) * kTileOutputs + group + 8 * half;
        // Past the end: the last row once more; its sums go nowhere.
        const int64_t row = min(output, params.num_out - 1);
        weights_[tile][half] =
            static_cast<const char*>(params.weight) + row * params.num_in * int64_t{sizeof(W)} + 16 * (lane % 4);
      }
    }
    for (int r = 0; r < kRowTiles; ++r) {
      const int row = group + kTileRows * r;
      has_input_[r] = row < params.num_rows;
      inputs_[r] = static_cast<const T*>(params.x) + int64_t{has_input_[r] ? row : 0} * params.num_in;
    }
  }

  __device__ void Load(int unit, WeightUnit<W, kTiles>* to) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const char* const from = weights_[tile][half] + int64_t{unit} * kUnit * int64_t{sizeof(W)};
#pragma unroll
        for (int piece = 0; piece < kPieces<W>; ++piece) to->at[tile][half][piece] = LoadWeights(from + 64 * piece);
      }
    }
  }
  __device__ void Load(int unit, InputUnit (&to)[kRowTiles]) const {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      if (!has_input_[r]) continue;
      const T* const from = inputs_[r] + int64_t{unit} * kUnit;
      to[r].at[0] = *reinterpret_cast<const uint4*>(from + InputColumn<W>(threadIdx.x % 32, 0));
      to[r].at[1] = *reinterpret_cast<const uint4*>(from + InputColumn<W>(threadIdx.x % 32, 1));
    }
  }

 private:
  const char* weights_[kTiles][2];
  const T* inputs_[kRowTiles];
  bool has_input_[kRowTiles];
};

// Grid (ceil(N / (16 kTiles))), block (kThreads). kStages units of a warp are on their way at a time.
template <typename T, typename W, int kTiles, int kRowTiles, int kStages>
__global__ void __launch_bounds__(kThreads) SmallLinearOutputs(const SmallLinearParams params) {
  constexpr int kOutputs = kTiles * kTileOutputs, kRows = kRowTiles * kTileRows;
  __shared__ float partial[kLinearWarps][kOutputs][kRows];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int units = params.num_in / kUnit;
  const Operands<T, W, kTiles, kRowTiles> operands(params);
  WeightUnit<W, kTiles> w[kStages];
  InputUnit x[kStages][kRowTiles] = {};
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
    if (unit < units) operands.Load(unit, x[stage]);
  }
  Accumulator sums[kRowTiles][kTiles] = {};
  for (int base = warp; base < units; base += kStages * kLinearWarps) {
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) {
      const int unit = base + stage * kLinearWarps, next = unit + kStages * kLinearWarps;
      if (unit < units) MultiplyUnit<T, kTiles>(w[stage], x[stage], sums);
      if (next < units) {
        operands.Load(next, &w[stage]);
        operands.Load(next, x[stage]);
      }
    }
  }

  const int group = lane / 4, row = 2 * (lane % 4);
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      for (int i = 0; i < 4; ++i) {
        const int output = tile * kTileOutputs + group + 8 * (i / 2);
        partial[warp][output][kTileRows * r + row + i % 2] = sums[r][tile].at[i];
      }
    }
  }
  __syncthreads();
  const int64_t begin = int64_t{blockIdx.x} * kOutputs;
  for (int i = threadIdx.x; i < kOutputs * params.num_rows; i += kThreads) {
    const int row_of = i / kOutputs, output = i % kOutputs;
    if (begin + output >= params.num_out) continue;
    float sum = 0;
    for (int w_index = 0; w_index < kLinearWarps; ++w_index) sum += partial[w_index][output][row_of];
    StoreOutput<T>(params, sum, row_of, begin + output);
  }
}

int NumProcessors(LaunchSequence* sequence) {
  int device = 0, count = 1;
  sequence->Check(cudaGetDevice(&device));
  sequence->Check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

template <typename T, typename W, int kRowTiles>
int LaunchSmallLinear(const SmallLinearParams& params) {
  LaunchSequence sequence(params.execution.stream);
  LaunchOptions options;
  options.overlap_previous = true;
  const auto stream = StreamLinearOutputs<T, W, kRowTiles>;
  // Whether the device runs code of sm_90a: what StreamLinearOutputs is made of.
  if (sequence.CanWait(reinterpret_cast<const void*>(stream))) {
    using Layout = StreamLayout<W, kRowTiles>;
    const StreamShape shape(params, Layout::kOutputs, NumProcessors(&sequence));
    sequence.Check(cudaFuncSetAttribute(stream, cudaFuncAttributeMaxDynamicSharedMemorySize, Layout::kSharedBytes));
    sequence.LaunchWith(options, stream, dim3(shape.blocks), dim3(Layout::kThreads), Layout::kSharedBytes, params,
                        shape.tile_outputs);
    return sequence.error();
  }
  // Every block reads all of x: with many rows that is as much as a tile's weights, so a block then makes two tiles.
  const bool wide = params.num_rows > 4 && params.num_out % (2 * kTileOutputs) == 0;
  const int outputs = wide ? 2 * kTileOutputs : kTileOutputs;
  const dim3 grid((params.num_out + outputs - 1) / outputs), block(kThreads);
  constexpr int kFewer = kRowTiles > 2 ? 1 : 0;
  if (wide) {
    sequence.LaunchWith(options, SmallLinearOutputs<T, W, 2, kRowTiles, 2 - kFewer>, grid, block, 0, params);
  } else {
    sequence.LaunchWith(options, SmallLinearOutputs<T, W, 1, kRowTiles, 3 - kFewer>, grid, block, 0, params);
  }
  return sequence.error();
}

}  // namespace

int SmallLinear(const SmallLinearParams& params) {
  if (params.weight_scale != nullptr) {
    static_assert(kMaxSmallLinearFp8Rows == 4 * kTileRows);
    switch ((params.num_rows + kTileRows - 1) / kTileRows) {
      case 1:
        return LaunchSmallLinear<__nv_bfloat16, __nv_fp8_e4m3, 1>(params);
      case 2:
        return LaunchSmallLinear<__nv_bfloat16, __nv_fp8_e4m3, 2>(params);
      case 3:
        return LaunchSmallLinear<__nv_bfloat16, __nv_fp8_e4m3, 3>(params);
      default:
        return LaunchSmallLinear<__nv_bfloat16, __nv_fp8_e4m3, 4>(params);
    }
  }
  return params.dtype == DType::kBF16 ? LaunchSmallLinear<__nv_bfloat16, __nv_bfloat16, 1>(params)
                                      : LaunchSmallLinear<__half, __half, 1>(params);
}

}  // namespace spotlight::kernels::cuda
