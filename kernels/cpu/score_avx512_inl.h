// Scoring by VPOPCNTDQ, 16 codes' words or more per instruction. Included by the AVX-512 translation unit only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/score_prefetch_inl.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::cpu {
namespace {

// [a0+a1, a2+a3, a4+a5, a6+a7, b0+b1, ...]
SPOTLIGHT_INLINE __m512i AddPairs(__m512i a, __m512i b) {
  const __m512i interleaved = _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  return _mm512_permutexvar_epi64(_mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0), interleaved);
}

template <int kWords, int kPlanes>
class PopcountScorer {
 public:
  void Set(const ScorePlanes& planes) {
    top_plane_weight_ =
        kWords == 1 ? _mm512_set1_epi32(planes.top_plane_weight) : _mm512_set1_epi64(planes.top_plane_weight);
    for (int j = 0; j < kPlanes; ++j) inverted_[j] = Repeat(planes.inverted + j * kWords);
  }

  SPOTLIGHT_INLINE void Score(const uint32_t* codes, int64_t count, const uint32_t* later, int16_t* scores) const {
    constexpr int kStep = kWords == 1 ? 16 : 8;
    int64_t i = 0;
    for (; i + kStep <= count; i += kStep) {
      PrefetchLater<kStep * kWords>(later + i * kWords);
      ScoreStep<false>(codes + i * kWords, 0, scores + i);
    }
    if (i < count) ScoreStep<true>(codes + i * kWords, count - i, scores + i);
  }

 private:
  static __m512i Repeat(const uint32_t* words) {
    if constexpr (kWords == 1) {
      return _mm512_set1_epi32(static_cast<int32_t>(words[0]));
    } else if constexpr (kWords == 2) {
      return _mm512_broadcastq_epi64(_mm_loadu_epi32(words));
    } else if constexpr (kWords == 4) {
      return _mm512_broadcast_i32x4(_mm_loadu_epi32(words));
    } else {
      return _mm512_broadcast_i64x4(_mm256_loadu_epi32(words));
    }
  }

  // The next codes, 16 of one word or eight of several; with kPartial `count` of them.
  template <bool kPartial>
  SPOTLIGHT_INLINE void ScoreStep(const uint32_t* codes, int64_t count, int16_t* scores) const {
    const auto load = [&](int i) {
      if constexpr (!kPartial) return _mm512_loadu_epi32(codes + 16 * i);
      const int64_t left = count * kWords - 16 * i;
      const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1);
      return _mm512_maskz_loadu_epi32(mask, codes + 16 * i);
    };
    if constexpr (kWords == 1) {
      const __m256i sums = _mm512_cvtepi32_epi16(MatchesOfWords(load(0)));
      if constexpr (kPartial) {
        _mm256_mask_storeu_epi16(scores, static_cast<__mmask16>((1u << count) - 1), sums);
      } else {
        _mm256_storeu_epi16(scores, sums);
      }
    } else {
      __m512i sum;  // one code a lane
      if constexpr (kWords == 2) {
        sum = MatchesOfPairs(load(0));
      } else if constexpr (kWords == 4) {
        sum = AddPairs(MatchesOfPairs(load(0)), MatchesOfPairs(load(1)));
      } else {
        sum = AddPairs(AddPairs(MatchesOfPairs(load(0)), MatchesOfPairs(load(1))),
                       AddPairs(MatchesOfPairs(load(2)), MatchesOfPairs(load(3))));
      }
      const __m128i sums = _mm512_cvtepi64_epi16(sum);
      if constexpr (kPartial) {
        _mm_mask_storeu_epi16(scores, static_cast<__mmask8>((1u << count) - 1), sums);
      } else {
        _mm_storeu_epi16(scores, sums);
      }
    }
  }

  // The weighted matches of each 64-bit pair of words. The lower planes' powers of two come from doubling.
  SPOTLIGHT_INLINE __m512i MatchesOfPairs(__m512i code) const {
    const auto matches = [&](int j) { return _mm512_popcnt_epi64(_mm512_xor_si512(code, inverted_[j])); };
    const __m512i top = _mm512_mul_epu32(matches(kPlanes - 1), top_plane_weight_);
    if constexpr (kPlanes == 1) return top;
    __m512i lower = matches(kPlanes >= 2 ? kPlanes - 2 : 0);
    for (int j = kPlanes - 3; j >= 0; --j) lower = _mm512_add_epi64(_mm512_add_epi64(lower, lower), matches(j));
    return _mm512_add_epi64(top, lower);
  }
  // Of each word; products stay below 2^9.
  SPOTLIGHT_INLINE __m512i MatchesOfWords(__m512i code) const {
    const auto matches = [&](int j) { return _mm512_popcnt_epi32(_mm512_xor_si512(code, inverted_[j])); };
    const __m512i top = _mm512_madd_epi16(matches(kPlanes - 1), top_plane_weight_);
    if constexpr (kPlanes == 1) return top;
    __m512i lower = matches(kPlanes >= 2 ? kPlanes - 2 : 0);
    for (int j = kPlanes - 3; j >= 0; --j) lower = _mm512_add_epi32(_mm512_add_epi32(lower, lower), matches(j));
    return _mm512_add_epi32(top, lower);
  }

  __m512i inverted_[kPlanes];
  __m512i top_plane_weight_;
};

template <class Scorer, class Body>
SPOTLIGHT_INLINE void WithScorersOf(const ScorePlanes* planes, int count, const Body& body) {
  Scorer scorers[kScoreHeads];
  for (int i = 0; i < count; ++i) scorers[i].Set(planes[i]);
  body(scorers);
}

// body(scorers), one for each of `count` planes, which agree in their number of planes.
template <int kWords, class Body>
SPOTLIGHT_INLINE void WithScorers(const ScorePlanes* planes, int count, const Body& body) {
  switch (planes->num_planes) {
    case 1:
      return WithScorersOf<PopcountScorer<kWords, 1>>(planes, count, body);
    case 2:
      return WithScorersOf<PopcountScorer<kWords, 2>>(planes, count, body);
    case 3:
      return WithScorersOf<PopcountScorer<kWords, 3>>(planes, count, body);
    default:
      return WithScorersOf<PopcountScorer<kWords, 4>>(planes, count, body);
  }
}

}  // namespace
}  // namespace spotlight::kernels::cpu
