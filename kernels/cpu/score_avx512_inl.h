// Scoring by VPOPCNTDQ, 16 codes' words or more per instruction. Included by the AVX-512 translation unit only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::cpu {
namespace {

template <int kPlanes>
struct PlaneVectors {
  __m512i inverted[kPlanes];
  __m512i top_plane_weight;
};

// The weighted matches of each 64-bit pair of words.
template <int kPlanes>
SPOTLIGHT_INLINE __m512i WeightedMatches(const PlaneVectors<kPlanes>& planes, __m512i code) {
  const auto matches = [&](int j) { return _mm512_popcnt_epi64(_mm512_xor_si512(code, planes.inverted[j])); };
  __m512i sum = _mm512_mul_epu32(matches(kPlanes - 1), planes.top_plane_weight);
  for (int j = 0; j < kPlanes - 1; ++j) sum = _mm512_add_epi64(sum, _mm512_slli_epi64(matches(j), j));
  return sum;
}

// [a0+a1, a2+a3, a4+a5, a6+a7, b0+b1, ...]
SPOTLIGHT_INLINE __m512i AddPairs(__m512i a, __m512i b) {
  const __m512i interleaved = _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  return _mm512_permutexvar_epi64(_mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0), interleaved);
}

// Weighted matches of eight codes of 2 * kPairs words, the first `num_words` words present, one code a lane.
template <int kPairs, int kPlanes>
SPOTLIGHT_INLINE __m512i ScoreEight(const PlaneVectors<kPlanes>& planes, const uint32_t* codes, int64_t num_words) {
  const auto load = [&](int i) {
    const int64_t left = num_words - 16 * i;
    const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1);
    return WeightedMatches<kPlanes>(planes, _mm512_maskz_loadu_epi32(mask, codes + 16 * i));
  };
  if constexpr (kPairs == 1) {
    return load(0);
  } else if constexpr (kPairs == 2) {
    return AddPairs(load(0), load(1));
  } else {
    return AddPairs(AddPairs(load(0), load(1)), AddPairs(load(2), load(3)));
  }
}

template <int kWords, int kPlanes>
void ScoreCodes(const ScorePlanes& planes, const uint32_t* codes, int64_t count, int16_t* scores) {
  PlaneVectors<kPlanes> vectors;
  vectors.top_plane_weight = _mm512_set1_epi64(planes.top_plane_weight);
  for (int j = 0; j < kPlanes; ++j) {
    uint32_t repeated[16];
    for (int i = 0; i < 16; ++i) repeated[i] = planes.inverted[j * kWords + i % kWords];
    vectors.inverted[j] = _mm512_loadu_si512(repeated);
  }
  if constexpr (kWords == 1) {
    // A word is half a pair: 16 lanes of 32 bits; products stay below 2^9.
    const __m512i top = _mm512_set1_epi32(planes.top_plane_weight);
    for (int64_t i = 0; i < count; i += 16) {
      const int64_t left = count - i;
      const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff : (1u << left) - 1);
      const __m512i code = _mm512_maskz_loadu_epi32(mask, codes + i);
      const auto matches = [&](int j) { return _mm512_popcnt_epi32(_mm512_xor_si512(code, vectors.inverted[j])); };
      __m512i sum = _mm512_mullo_epi32(matches(kPlanes - 1), top);
      for (int j = 0; j < kPlanes - 1; ++j) sum = _mm512_add_epi32(sum, _mm512_slli_epi32(matches(j), j));
      _mm256_mask_storeu_epi16(scores + i, mask, _mm512_cvtepi32_epi16(sum));
    }
  } else {
    for (int64_t i = 0; i < count; i += 8) {
      const int64_t left = count - i;
      const auto mask = static_cast<__mmask8>(left >= 8 ? 0xff : (1u << left) - 1);
      const __m512i sum = ScoreEight<kWords / 2, kPlanes>(vectors, codes + i * kWords, left * kWords);
      _mm_mask_storeu_epi16(scores + i, mask, _mm512_cvtepi64_epi16(sum));
    }
  }
}

}  // namespace
}  // namespace spotlight::kernels::cpu
