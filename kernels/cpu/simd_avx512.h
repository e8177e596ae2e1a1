// Sixteen floats: AVX-512 F, BW, VL, DQ. The same vocabulary as simd_baseline.h, which says what each function is.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/e4m3.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::cpu {
namespace {

using F32 = __m512;
inline constexpr int kLanes = 16;
inline constexpr int kAccumulators = 16;

SPOTLIGHT_INLINE F32 Set(float x) {
  return _mm512_set1_ps(x);
}
SPOTLIGHT_INLINE F32 Zero() {
  return _mm512_setzero_ps();
}
SPOTLIGHT_INLINE F32 Fma(F32 a, F32 b, F32 c) {
  return _mm512_fmadd_ps(a, b, c);
}
SPOTLIGHT_INLINE F32 Max(F32 a, F32 b) {
  return _mm512_max_ps(a, b);
}
SPOTLIGHT_INLINE F32 Min(F32 a, F32 b) {
  return _mm512_min_ps(a, b);
}

SPOTLIGHT_INLINE F32 Load(const float* x) {
  return _mm512_loadu_ps(x);
}
SPOTLIGHT_INLINE F32 Load(const BF16* x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_epi16(x)), 16));
}
SPOTLIGHT_INLINE F32 Load(const F16* x) {
  return _mm512_cvtph_ps(_mm256_loadu_epi16(x));
}
SPOTLIGHT_INLINE F32 Load(const E4m3* x) {
  const __m512i bits = _mm512_cvtepu8_epi32(_mm_loadu_epi8(x));
  const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7f));
  const __m512i sign = _mm512_slli_epi32(_mm512_xor_si512(bits, magnitude), 24);
  const F32 value = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(magnitude, 20)), Set(0x1p120f));
  const __mmask16 is_nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7f));
  const __m512i all = _mm512_mask_mov_epi32(_mm512_castps_si512(value), is_nan, _mm512_set1_epi32(0x7fc00000));
  return _mm512_castsi512_ps(_mm512_or_si512(all, sign));
}
SPOTLIGHT_INLINE void Store(F32 v, float* x) {
  _mm512_storeu_ps(x, v);
}
SPOTLIGHT_INLINE void Store(F32 v, BF16* x) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i high = _mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, is_nan, quiet), 16);
  _mm256_storeu_epi16(x, _mm512_cvtepi32_epi16(high));
}
SPOTLIGHT_INLINE void Store(F32 v, F16* x) {
  _mm256_storeu_epi16(x, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

SPOTLIGHT_INLINE F32 Round(F32 x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SPOTLIGHT_INLINE F32 Floor(F32 x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
SPOTLIGHT_INLINE F32 ScaleByPowerOfTwo(F32 x, F32 n) {
  return _mm512_scalef_ps(x, n);
}

// Halves the number of rows and of live lanes at each of four levels.
SPOTLIGHT_INLINE F32 ReduceRows(const F32* rows) {
  F32 quads[4];
  for (int i = 0; i < 4; ++i) {
    const F32 a = rows[4 * i], b = rows[4 * i + 1], c = rows[4 * i + 2], d = rows[4 * i + 3];
    const F32 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const F32 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    // In each 128-bit lane: the four rows' partial sums.
    quads[i] = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  }
  const F32 low =
      _mm512_add_ps(_mm512_shuffle_f32x4(quads[0], quads[1], 0x44), _mm512_shuffle_f32x4(quads[0], quads[1], 0xee));
  const F32 high =
      _mm512_add_ps(_mm512_shuffle_f32x4(quads[2], quads[3], 0x44), _mm512_shuffle_f32x4(quads[2], quads[3], 0xee));
  return _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xdd));
}
SPOTLIGHT_INLINE float ReduceAdd(F32 x) {
  return _mm512_reduce_add_ps(x);
}
SPOTLIGHT_INLINE float ReduceMax(F32 x) {
  return _mm512_reduce_max_ps(x);
}

SPOTLIGHT_INLINE uint32_t NonNegativeMask(F32 x) {
  return _mm512_cmp_ps_mask(x, Zero(), _CMP_GE_OQ);
}
SPOTLIGHT_INLINE uint32_t BitMask(F32 x, int bit) {
  return _mm512_test_epi32_mask(_mm512_cvttps_epi32(x), _mm512_set1_epi32(1 << bit));
}

inline constexpr int kScoreLanes = 32;
SPOTLIGHT_INLINE void CompareScores(const int16_t* scores, int16_t threshold, uint32_t* over, uint32_t* equal) {
  const __m512i x = _mm512_loadu_epi16(scores);
  const __m512i t = _mm512_set1_epi16(threshold);
  *over = _mm512_cmpgt_epi16_mask(x, t);
  *equal = _mm512_cmpeq_epi16_mask(x, t);
}

}  // namespace
}  // namespace spotlight::kernels::cpu
