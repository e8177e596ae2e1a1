// The arithmetic of pointwise operations in half precisions, for whichever kernel does it: the same bits in all.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/numeric.cuh"

namespace spotlight::kernels::cuda {

inline constexpr int kVector = 8;  // half-precision elements of 16 bytes

template <typename T>
struct alignas(16) Vector {
  T at[kVector];
};

template <typename T>
__device__ inline float AddSquares(const Vector<T>& x, float sum) {
#pragma unroll
  for (int i = 0; i < kVector; ++i) sum = fmaf(ToFloat(x.at[i]), ToFloat(x.at[i]), sum);
  return sum;
}

// The sum of a warp's, in every lane.
__device__ inline float WarpSum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}

// 1 / sqrt(mean(x^2) + eps), of the sums that warps made of a row's squares, `stride` apart.
__device__ inline float NormScale(const float* warp_sums, int warps, int stride, int32_t hidden, float eps) {
  float sum = 0;
  for (int warp = 0; warp < warps; ++warp) sum += warp_sums[warp * stride];
  return 1.0f / sqrtf(sum / static_cast<float>(hidden) + eps);
}

__device__ inline __nv_bfloat162 ToPair(const __nv_bfloat16* x) {
  return *reinterpret_cast<const __nv_bfloat162*>(x);
}
__device__ inline __half2 ToPair(const __half* x) {
  return *reinterpret_cast<const __half2*>(x);
}

// Rounded.
template <typename T>
__device__ inline Vector<T> Product(const Vector<T>& a, const Vector<T>& b) {
  Vector<T> out;
#pragma unroll
  for (int i = 0; i < kVector; i += 2) {
    const auto product = __hmul2(ToPair(&a.at[i]), ToPair(&b.at[i]));
    out.at[i] = product.x;
    out.at[i + 1] = product.y;
  }
  return out;
}

// silu(gate) * up; gate and up as stored, the silu rounded before the product, which is not rounded yet.
template <typename T>
__device__ inline float SiluTimes(float gate, float up) {
  T silu;
  RoundTo(gate / (1.0f + expf(-gate)), &silu);
  return ToFloat(silu) * up;
}

}  // namespace spotlight::kernels::cuda
