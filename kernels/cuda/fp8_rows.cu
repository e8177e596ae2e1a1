#include "kernels/cuda/fp8_rows.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/numeric.cuh"

namespace spotlight::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVector = 8;   // elements
constexpr int kHeld = 4;     // vectors that a thread keeps between the two passes: 8,192 columns
constexpr float kMax = 448;  // of e4m3

struct Vector {
  __align__(16) __nv_bfloat16 at[kVector];
};

__device__ float Largest(const Vector& x) {
  float largest = 0;
#pragma unroll
  for (const __nv_bfloat16 element : x.at) largest = fmaxf(largest, fabsf(ToFloat(element)));
  return largest;
}

__device__ uint2 Round(const Vector& x, float scale) {
  const auto four = [&](int i) {
    const auto two = [&](int j) {
      const float2 quotients = {__fdiv_rn(ToFloat(x.at[j]), scale), __fdiv_rn(ToFloat(x.at[j + 1]), scale)};
      return uint32_t{__nv_cvt_float2_to_fp8x2(quotients, __NV_SATFINITE, __NV_E4M3)};
    };
    return two(i) | two(i + 2) << 16;
  };
  return {four(0), four(4)};
}

// Grid (T), block (kThreads): a block rounds a row.
__global__ void __launch_bounds__(kThreads) RoundRows(const Fp8RowsParams params) {
  const int64_t begin = int64_t{blockIdx.x} * params.num_columns;
  const auto* const x = reinterpret_cast<const Vector*>(static_cast<const __nv_bfloat16*>(params.x) + begin);
  auto* const out = reinterpret_cast<uint2*>(static_cast<uint8_t*>(params.out) + begin);
  const int vectors = params.num_columns / kVector;
  Vector held[kHeld];
  float largest = 0;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int at = threadIdx.x + i * kThreads;
    if (at >= vectors) continue;
    held[i] = x[at];
    largest = fmaxf(largest, Largest(held[i]));
  }
  for (int at = threadIdx.x + kHeld * kThreads; at < vectors; at += kThreads) {
    largest = fmaxf(largest, Largest(x[at]));
  }
  __shared__ float of_warps[kThreads / 32];
  for (int step = 16; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = largest;
  __syncthreads();
  for (const float of_warp : of_warps) largest = fmaxf(largest, of_warp);
  const float scale = largest > 0 ? __fdiv_rn(largest, kMax) : 1.0f;
  if (threadIdx.x == 0) params.scale[blockIdx.x] = scale;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int at = threadIdx.x + i * kThreads;
    if (at < vectors) out[at] = Round(held[i], scale);
  }
  for (int at = threadIdx.x + kHeld * kThreads; at < vectors; at += kThreads) out[at] = Round(x[at], scale);
}

}  // namespace

int Fp8Rows(const Fp8RowsParams& params) {
  LaunchSequence sequence(params.execution.stream);
  sequence.Launch(RoundRows, dim3(static_cast<unsigned>(params.num_rows)), dim3(kThreads), 0, params);
  return sequence.error();
}

}  // namespace spotlight::kernels::cuda
