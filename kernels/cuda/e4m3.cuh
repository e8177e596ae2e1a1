// Keys and values in e4m3: what reads such pages computes in bf16.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/cuda/numeric.cuh"

namespace spotlight::kernels::cuda {

// The type of queries and outputs beside pages of S.
template <class S>
struct ComputeOf {
  using Type = S;
};
template <>
struct ComputeOf<__nv_fp8_e4m3> {
  using Type = __nv_bfloat16;
};
template <class S>
using Compute = typename ComputeOf<S>::Type;

template <class S>
inline constexpr bool kIsE4m3 = sizeof(S) == 1;

// Bytes 0 and 2, and bytes 1 and 3, of four values as bf16 times 2^-120: exponent and mantissa go where bf16 has them.
// e4m3's NaN becomes 480: a row that holds one has a scale of NaN.
inline constexpr float kWidenedScale = 0x1p-120f;
__device__ inline void WidenScaled(uint32_t four, uint32_t* even, uint32_t* odd) {
  *even = (four << 8 & 0x80008000u) | (four << 4 & 0x07f007f0u);
  *odd = (four & 0x80008000u) | (four >> 4 & 0x07f007f0u);
}

// Exact, subnormals included.
__device__ inline float ToFloat(__nv_fp8_e4m3 x) {
  return static_cast<float>(x);
}

// Eight values times scale, rounded to bf16, in order.
__device__ inline uint4 WidenEight(uint2 eight, float scale) {
  const auto two = [scale](uint32_t pair) {
    const __half2 halves(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(pair & 0xffff), __NV_E4M3));
    const float2 values = __half22float2(halves);
    const __nv_bfloat162 rounded = __floats2bfloat162_rn(values.x * scale, values.y * scale);
    return reinterpret_cast<const uint32_t&>(rounded);
  };
  return make_uint4(two(eight.x), two(eight.x >> 16), two(eight.y), two(eight.y >> 16));
}

__device__ inline float RoundedToBf16(float x) {
  return __bfloat162float(__float2bfloat16_rn(x));
}

}  // namespace spotlight::kernels::cuda
