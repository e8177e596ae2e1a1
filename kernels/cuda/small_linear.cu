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
#include "kernels/cuda/small_linear_operands.cuh"
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

template <typename W, int kTiles>
class Weights {
 public:
  __device__ Weights(const SmallLinearParams& params, const OutputTile& outputs) {
    const int lane = threadIdx.x % 32, group = lane / 4;
    for (int tile = 0; tile < kTiles; ++tile) {
      for (int half = 0; half < 2; ++half) {
        const int64_t row = outputs.MatrixRow(params, tile * kTileOutputs + group + 8 * half);
        rows_[tile][half] =
            static_cast<const char*>(params.weight) + row * params.num_in * int64_t{sizeof(W)} + 16 * (lane % 4);
      }
    }
  }

  __device__ void Load(int unit, WeightUnit<W, kTiles>* to) const {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const char* const from = rows_[tile][half] + int64_t{unit} * kUnit * int64_t{sizeof(W)};
#pragma unroll
        for (int piece = 0; piece < kPieces<W>; ++piece) to->at[tile][half][piece] = LoadWeights(from + 64 * piece);
      }
    }
  }

 private:
  const char* rows_[kTiles][2];
};

// Grid (N / (16 kTiles)), block (kThreads). kStages units of a warp are on their way at a time.
template <typename T, typename W, bool kNorm, int kTiles, int kRowTiles, int kStages>
__global__ void __launch_bounds__(kThreads) SmallLinearOutputs(const SmallLinearParams params) {
  constexpr int kOutputs = kTiles * kTileOutputs, kRows = kRowTiles * kTileRows;
  __shared__ float partial[kLinearWarps][kOutputs][kRows], squares[kLinearWarps][kRows];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int units = params.num_in / kUnit;
  const OutputTile outputs = {static_cast<int32_t>(blockIdx.x) * kOutputs, kOutputs};
  const Weights<W, kTiles> weights(params, outputs);
  Inputs<T, W, kNorm, kRowTiles> inputs(params, static_cast<const T*>(params.norm_weight));
  WeightUnit<W, kTiles> w[kStages];
  typename Inputs<T, W, kNorm, kRowTiles>::Unit x[kStages] = {};
  typename Inputs<T, W, kNorm, kRowTiles>::Gains gains[kStages];
#pragma unroll
  for (int stage = 0; stage < kStages; ++stage) {
    const int unit = warp + stage * kLinearWarps;
    if (unit < units) weights.Load(unit, &w[stage]);
  }
  WaitForPrevious();
  AllowNext();  // not before: at most two kernels of the stream overlap
#pragma unroll
  for (int stage = 0; stage < kStages; ++stage) {
    const int unit = warp + stage * kLinearWarps;
    if (unit >= units) continue;
    inputs.Load(unit, x[stage]);
    if (kNorm) inputs.Load(unit, &gains[stage]);
  }
  Accumulator sums[kRowTiles][kTiles] = {};
  for (int base = warp; base < units; base += kStages * kLinearWarps) {
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) {
      const int unit = base + stage * kLinearWarps, next = unit + kStages * kLinearWarps;
      if (unit < units) {
        if (kNorm) {
          inputs.AddUnitSquares(x[stage]);
          inputs.Multiply(gains[stage], x[stage]);
        }
        MultiplyUnit<T, kTiles>(w[stage], x[stage], sums);
      }
      if (next < units) {
        weights.Load(next, &w[stage]);
        inputs.Load(next, x[stage]);
        if (kNorm) inputs.Load(next, &gains[stage]);
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
  if (kNorm) inputs.Share(squares[warp]);
  __syncthreads();
  const int32_t results = outputs.Results(params);
  for (int i = threadIdx.x; i < results * params.num_rows; i += kThreads) {
    const int row_of = i / results, output = i % results;
    const auto sum_of = [&](int of) {
      float sum = 0;
      for (int w_index = 0; w_index < kLinearWarps; ++w_index) sum += partial[w_index][of][row_of];
      return sum;
    };
    const float scale = kNorm ? NormScale(&squares[0][row_of], kLinearWarps, kRows, params.num_in, params.norm_eps) : 1;
    Result<T>(params, outputs, row_of, output)
        .Store(params, scale, sum_of(output), OutputTile::Gated(params) ? sum_of(output + results) : 0);
  }
}

int NumProcessors(LaunchSequence* sequence) {
  int device = 0, count = 1;
  sequence->Check(cudaGetDevice(&device));
  sequence->Check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

template <typename T, typename W, bool kNorm, int kRowTiles>
int LaunchSmallLinear(const SmallLinearParams& params) {
  LaunchSequence sequence(params.execution.stream);
  LaunchOptions options;
  options.overlap_previous = true;
  const auto stream = StreamLinearOutputs<T, W, kNorm, kRowTiles>;
  // Whether the device runs code of sm_90a: what StreamLinearOutputs is made of.
  if (sequence.CanWait(reinterpret_cast<const void*>(stream))) {
    using Layout = StreamLayout<W, kNorm, kRowTiles>;
    const StreamShape shape(params, Layout::kOutputs, NumProcessors(&sequence));
    const int shared_bytes = Layout::kSharedBytes + (kNorm ? params.num_in * static_cast<int>(sizeof(T)) : 0);
    sequence.Check(cudaFuncSetAttribute(stream, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
    sequence.LaunchWith(options, stream, dim3(shape.blocks), dim3(Layout::kThreads), shared_bytes, params,
                        shape.tile_outputs);
    return sequence.error();
  }
  // Every block reads all of x: with many rows that is as much as a tile's weights, so a block then makes two tiles.
  const bool wide = params.num_rows > 4 && params.num_out % (2 * kTileOutputs) == 0;
  const int outputs = wide ? 2 * kTileOutputs : kTileOutputs;
  const dim3 grid(params.num_out / outputs), block(kThreads);
  constexpr int kFewer = kRowTiles > 2 ? 1 : 0;
  if (wide) {
    sequence.LaunchWith(options, SmallLinearOutputs<T, W, kNorm, 2, kRowTiles, 2 - kFewer>, grid, block, 0, params);
  } else {
    sequence.LaunchWith(options, SmallLinearOutputs<T, W, kNorm, 1, kRowTiles, 3 - kFewer>, grid, block, 0, params);
  }
  return sequence.error();
}

template <typename T, typename W, bool kNorm, int kRowTiles = 1>
int LaunchByRows(const SmallLinearParams& params) {
  if constexpr (kRowTiles * kTileRows < MaxSmallLinearRows(sizeof(W) == 1)) {
    if (params.num_rows > kRowTiles * kTileRows) return LaunchByRows<T, W, kNorm, kRowTiles + 1>(params);
  }
  return LaunchSmallLinear<T, W, kNorm, kRowTiles>(params);
}

}  // namespace

int SmallLinear(const SmallLinearParams& params) {
  using Bf16 = __nv_bfloat16;
  if (params.weight_scale != nullptr) return LaunchByRows<Bf16, __nv_fp8_e4m3, false>(params);
  if (params.dtype == DType::kF16) return LaunchByRows<__half, __half, false>(params);
  if (params.norm_weight != nullptr) return LaunchByRows<Bf16, Bf16, true>(params);
  return LaunchByRows<Bf16, Bf16, false>(params);
}

}  // namespace spotlight::kernels::cuda
