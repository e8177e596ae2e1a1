// Keys and values on their way into pages in e4m3: neighbouring lanes have a row's pieces.
#pragma once

#include <cstdint>

#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/rotation.cuh"

namespace spotlight::kernels::cuda {

// Bits of the largest magnitude. They order as magnitudes do, infinity and NaN last.
template <int kBytes>
__device__ inline uint32_t Largest(const Vector<__nv_bfloat16, kBytes>& x) {
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < x.kSize; ++i) largest = max(largest, __bfloat16_as_ushort(x.at[i]) & 0x7fffu);
  return largest;
}

// What a row's values are divided by: E4m3PageScale of kernels/e4m3.h, where no magnitude of bf16 is too small. Each of
// `lanes` neighbouring lanes, a power of two, has pieces of the row, `largest` being theirs; they call together.
__device__ inline float ScaleOfRow(uint32_t largest, int lanes) {
  constexpr uint32_t kInfinity = 0x7f80u;
  const int first = static_cast<int>(threadIdx.x % 32) & ~(lanes - 1);
  const uint32_t mask = (lanes == 32 ? ~0u : (1u << lanes) - 1) << first;
  for (int offset = lanes / 2; offset > 0; offset /= 2) largest = max(largest, __shfl_xor_sync(mask, largest, offset));
  if (largest >= kInfinity) return __uint_as_float(0x7fc00000u);
  return largest > 0 ? __fdiv_rn(__uint_as_float(largest << 16), 448.0f) : 1.0f;
}

// What is stored of x, which becomes what is read: e4m3 times scale, rounded.
template <int kBytes>
__device__ inline Vector<uint8_t, kBytes / 2> RoundToE4m3(float scale, Vector<__nv_bfloat16, kBytes>* x) {
  Vector<uint8_t, kBytes / 2> rounded;
#pragma unroll
  for (int i = 0; i < x->kSize / 2; ++i) {
    const float2 pair = PairOf(*x, i);
    const __nv_fp8x2_storage_t two = __nv_cvt_float2_to_fp8x2(
        make_float2(__fdiv_rn(pair.x, scale), __fdiv_rn(pair.y, scale)), __NV_SATFINITE, __NV_E4M3);
    rounded.at[2 * i] = static_cast<uint8_t>(two & 0xff);
    rounded.at[2 * i + 1] = static_cast<uint8_t>(two >> 8);
    const float2 read = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(two, __NV_E4M3)));
    SetPair(make_float2(__fmul_rn(read.x, scale), __fmul_rn(read.y, scale)), i, x);
  }
  return rounded;
}

}  // namespace spotlight::kernels::cuda
