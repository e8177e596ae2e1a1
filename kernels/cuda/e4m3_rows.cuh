// Keys and values on their way into pages in e4m3: neighbouring lanes have a row's pieces.
#pragma once

#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/rotation.cuh"

namespace spotlight::kernels::cuda {

template <int kBytes>
__device__ inline float Largest(const Vector<__nv_bfloat16, kBytes>& x) {
  float largest = 0;
#pragma unroll
  for (int i = 0; i < x.kSize; ++i) largest = fmaxf(largest, fabsf(__bfloat162float(x.at[i])));
  return largest;
}

// Of a row of which each of `lanes` neighbouring lanes has pieces, `largest` being theirs; they call together.
__device__ inline float ScaleOfRow(float largest, int lanes) {
  return E4m3Scale(LargestOfLanes(largest, lanes));
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
