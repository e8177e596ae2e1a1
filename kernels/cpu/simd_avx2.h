// Eight floats: AVX2, FMA, F16C. The same vocabulary as simd_baseline.h, which says what each function is.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/e4m3.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::cpu {
namespace {

using F32 = __m256;
inline constexpr int kLanes = 8;
inline constexpr int kAccumulators = 8;

SPOTLIGHT_INLINE F32 Set(float x) {
  return _mm256_set1_ps(x);
}
SPOTLIGHT_INLINE F32 Zero() {
  return _mm256_setzero_ps();
}
SPOTLIGHT_INLINE F32 Fma(F32 a, F32 b, F32 c) {
  return _mm256_fmadd_ps(a, b, c);
}
SPOTLIGHT_INLINE F32 Max(F32 a, F32 b) {
  return _mm256_max_ps(a, b);
}
SPOTLIGHT_INLINE F32 Min(F32 a, F32 b) {
  return _mm256_min_ps(a, b);
}

SPOTLIGHT_INLINE F32 Load(const float* x) {
  return _mm256_loadu_ps(x);
}
SPOTLIGHT_INLINE F32 Load(const BF16* x) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
SPOTLIGHT_INLINE F32 Load(const F16* x) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}
SPOTLIGHT_INLINE F32 Load(const E4m3* x) {
  const __m256i bits = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x)));
  const __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7f));
  const __m256i sign = _mm256_slli_epi32(_mm256_xor_si256(bits, magnitude), 24);
  const F32 value = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(magnitude, 20)), Set(0x1p120f));
  const F32 is_nan = _mm256_castsi256_ps(_mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7f)));
  const F32 all = _mm256_blendv_ps(value, Set(__builtin_nanf("")), is_nan);
  return _mm256_or_ps(all, _mm256_castsi256_ps(sign));
}
SPOTLIGHT_INLINE void Store(F32 v, float* x) {
  _mm256_storeu_ps(x, v);
}
SPOTLIGHT_INLINE void Store(F32 v, BF16* x) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(x), _mm256_castsi256_si128(packed));
}
SPOTLIGHT_INLINE void Store(F32 v, F16* x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(x), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

SPOTLIGHT_INLINE F32 Round(F32 x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SPOTLIGHT_INLINE F32 Floor(F32 x) {
  return _mm256_floor_ps(x);
}
SPOTLIGHT_INLINE F32 ScaleByPowerOfTwo(F32 x, F32 n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(x, _mm256_castsi256_ps(exponent));
}

SPOTLIGHT_INLINE F32 ReduceRows(const F32* rows) {
  const F32 a = _mm256_hadd_ps(_mm256_hadd_ps(rows[0], rows[1]), _mm256_hadd_ps(rows[2], rows[3]));
  const F32 b = _mm256_hadd_ps(_mm256_hadd_ps(rows[4], rows[5]), _mm256_hadd_ps(rows[6], rows[7]));
  return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
SPOTLIGHT_INLINE float ReduceAdd(F32 x) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
SPOTLIGHT_INLINE float ReduceMax(F32 x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

SPOTLIGHT_INLINE uint32_t NonNegativeMask(F32 x) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, Zero(), _CMP_GE_OQ)));
}
SPOTLIGHT_INLINE uint32_t BitMask(F32 x, int bit) {
  const __m256i top = _mm256_sll_epi32(_mm256_cvttps_epi32(x), _mm_cvtsi32_si128(31 - bit));
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(top)));
}

inline constexpr int kScoreLanes = 16;
SPOTLIGHT_INLINE uint32_t WordMask(__m256i words) {  // bit i from word i, all ones or all zeros
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  return static_cast<uint32_t>(_mm_movemask_epi8(bytes));
}
SPOTLIGHT_INLINE void CompareScores(const int16_t* scores, int16_t threshold, uint32_t* over, uint32_t* equal) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(scores));
  const __m256i t = _mm256_set1_epi16(threshold);
  *over = WordMask(_mm256_cmpgt_epi16(x, t));
  *equal = WordMask(_mm256_cmpeq_epi16(x, t));
}

}  // namespace
}  // namespace spotlight::kernels::cpu
