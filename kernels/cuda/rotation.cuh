// Rotary embedding in 16-byte vectors, the same arithmetic for every kernel, so that a stored key does not depend on
// which of them wrote it.
#pragma once

#include "kernels/cuda/numeric.cuh"
#include "kernels/encode_and_append.h"

namespace spotlight::kernels::cuda {

// Of an array [pages, Hkv, P, ...].
__device__ inline int64_t EntryOf(int64_t slot, int32_t num_kv_heads, int32_t kv_head) {
  const auto place = static_cast<uint64_t>(slot);  // not negative: unsigned, so that shifts divide it
  return (place / kPageTokens * num_kv_heads + kv_head) * kPageTokens + place % kPageTokens;
}

// Cosine and sine of the fp32 product position * inv_freq, times scale. Whole turns are taken out of the product with
// 1 / (2 pi) in two floats: exact enough for any position, without sincosf's slow path for large angles.
__device__ inline float2 RotationOf(int32_t position, float inv_freq, float scale) {
  constexpr float kTurn = 0.159154937f, kTurnRest = 6.42063824e-9f;
  const float angle = __fmul_rn(static_cast<float>(position), inv_freq);
  const float turns = __fmul_rn(angle, kTurn), rest = __fmaf_rn(angle, kTurn, -turns);
  const float turn = __fadd_rn(__fsub_rn(turns, rintf(turns)), __fmaf_rn(angle, kTurnRest, rest));
  float sine, cosine;
  sincospif(2.0f * turn, &sine, &cosine);
  return make_float2(__fmul_rn(cosine, scale), __fmul_rn(sine, scale));
}

// Neighbouring elements that are loaded and stored at once.
template <class T, int kBytes = 16>
struct alignas(kBytes) Vector {
  static constexpr int kSize = kBytes / sizeof(T);
  T at[kSize];
};

// Elements 2i and 2i + 1.
template <int kBytes>
__device__ inline float2 PairOf(const Vector<float, kBytes>& x, int i) {
  return make_float2(x.at[2 * i], x.at[2 * i + 1]);
}
template <int kBytes>
__device__ inline float2 PairOf(const Vector<__nv_bfloat16, kBytes>& x, int i) {
  return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162*>(x.at)[i]);
}
template <int kBytes>
__device__ inline float2 PairOf(const Vector<__half, kBytes>& x, int i) {
  return __half22float2(reinterpret_cast<const __half2*>(x.at)[i]);
}

template <int kBytes>
__device__ inline void SetPair(float2 pair, int i, Vector<float, kBytes>* x) {
  x->at[2 * i] = pair.x;
  x->at[2 * i + 1] = pair.y;
}
template <int kBytes>
__device__ inline void SetPair(float2 pair, int i, Vector<__nv_bfloat16, kBytes>* x) {
  reinterpret_cast<__nv_bfloat162*>(x->at)[i] = __float22bfloat162_rn(pair);
}
template <int kBytes>
__device__ inline void SetPair(float2 pair, int i, Vector<__half, kBytes>* x) {
  reinterpret_cast<__half2*>(x->at)[i] = __float22half2_rn(pair);
}

__device__ inline float2 AddPairs(float2 a, float2 b) {
  return make_float2(__fadd_rn(a.x, b.x), __fadd_rn(a.y, b.y));
}

// What changes nothing when added: x + -0 is x, for 0 and -0 too.
template <class T, int kBytes = 16>
__device__ inline Vector<T, kBytes> NoBias() {
  Vector<T, kBytes> x;
#pragma unroll
  for (int i = 0; i < Vector<T, kBytes>::kSize / 2; ++i) SetPair(make_float2(-0.0f, -0.0f), i, &x);
  return x;
}

template <class T, int kBytes = 16>
__device__ inline Vector<T, kBytes> LoadVector(const void* data, int64_t index) {
  return *reinterpret_cast<const Vector<T, kBytes>*>(static_cast<const T*>(data) + index);
}

template <class T, int kBytes>
__device__ inline void StoreVector(const Vector<T, kBytes>& x, void* data, int64_t index) {
  *reinterpret_cast<Vector<T, kBytes>*>(static_cast<T*>(data) + index) = x;
}

// bias may be null.
template <class T, int kBytes = 16>
__device__ inline Vector<T, kBytes> LoadBias(const void* bias, int64_t index) {
  return bias == nullptr ? NoBias<T, kBytes>() : LoadVector<T, kBytes>(bias, index);
}

// x + bias, rounded to T.
template <class T>
__device__ inline Vector<T> Add(const Vector<T>& x, const Vector<T>& bias) {
  Vector<T> sum;
#pragma unroll
  for (int i = 0; i < Vector<T>::kSize / 2; ++i) SetPair(AddPairs(PairOf(x, i), PairOf(bias, i)), i, &sum);
  return sum;
}

// Rotates dimensions i.. (low) and i + D / 2.. (high) of a head in place: bias, rotation, one rounding. cosines[j] and
// sines[j] belong to dimension i + j; 16-byte aligned.
template <class T, int kBytes>
__device__ inline void Rotate(const Vector<T, kBytes>& low_bias, const Vector<T, kBytes>& high_bias,
                              const float* cosines, const float* sines, Vector<T, kBytes>* low,
                              Vector<T, kBytes>* high) {
#pragma unroll
  for (int i = 0; i < Vector<T, kBytes>::kSize / 2; i += 2) {
    const float4 cosine = *reinterpret_cast<const float4*>(cosines + 2 * i);
    const float4 sine = *reinterpret_cast<const float4*>(sines + 2 * i);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float2 c = j == 0 ? make_float2(cosine.x, cosine.y) : make_float2(cosine.z, cosine.w);
      const float2 s = j == 0 ? make_float2(sine.x, sine.y) : make_float2(sine.z, sine.w);
      const float2 a = AddPairs(PairOf(*low, i + j), PairOf(low_bias, i + j));
      const float2 b = AddPairs(PairOf(*high, i + j), PairOf(high_bias, i + j));
      SetPair(make_float2(__fmaf_rn(a.x, c.x, -__fmul_rn(b.x, s.x)), __fmaf_rn(a.y, c.y, -__fmul_rn(b.y, s.y))), i + j,
              low);
      SetPair(make_float2(__fmaf_rn(b.x, c.x, __fmul_rn(a.x, s.x)), __fmaf_rn(b.y, c.y, __fmul_rn(a.y, s.y))), i + j,
              high);
    }
  }
}

}  // namespace spotlight::kernels::cuda
