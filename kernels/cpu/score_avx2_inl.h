// Scoring by tables of nibbles. What four bits of a code at one place add to its score, all planes and their weights
// together, is one of 16 numbers of at most 4 * 15: a byte shuffle looks up 32 codes' at once, when their bytes of one
// place lie side by side. That costs as much for four planes as for one. Included by the AVX2 translation unit only.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/score_prefetch_inl.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::cpu {
namespace {

template <int kWords>
class TableScorer {
 public:
  void Set(const ScorePlanes& planes) {
    const __m128i nibbles = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m128i bits = _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    for (__m128i& table : tables_) table = _mm_setzero_si128();
    for (int j = 0; j < planes.num_planes; ++j) {
      const int weight = j == planes.num_planes - 1 ? planes.top_plane_weight : 1 << j;
      // Products of bytes below 64 fit the 16-bit lanes that there are multiplications for.
      const __m128i weighted = _mm_mullo_epi16(bits, _mm_set1_epi16(static_cast<int16_t>(weight)));
      uint8_t inverted[kBytes];
      std::memcpy(inverted, planes.inverted + j * kWords, kBytes);
      for (int i = 0; i < 2 * kBytes; ++i) {
        const int nibble = inverted[i / 2] >> 4 * (i % 2) & 0xf;
        const __m128i place = _mm_xor_si128(nibbles, _mm_set1_epi8(static_cast<char>(nibble)));
        tables_[i] = _mm_add_epi8(tables_[i], _mm_shuffle_epi8(weighted, place));
      }
    }
  }

  SPOTLIGHT_INLINE void Score(const uint32_t* codes, int64_t count, const uint32_t* later, int16_t* scores) const {
    int64_t i = 0;
    for (; i + kStep <= count; i += kStep) {
      PrefetchLater<kStep * kWords>(later + i * kWords);
      ScoreStep(codes + i * kWords, scores + i);
    }
    if (i == count) return;
    uint32_t padded[kStep * kWords] = {};
    int16_t sums[kStep];
    std::memcpy(padded, codes + i * kWords, (count - i) * kBytes);
    ScoreStep(padded, sums);
    std::memcpy(scores + i, sums, (count - i) * sizeof(int16_t));
  }

 private:
  static constexpr int kBytes = 4 * kWords;
  static constexpr int kStep = 32;                           // codes
  static constexpr int kPlaces = kBytes < 16 ? kBytes : 16;  // bytes of a code that are transposed at once

  // 32 codes: the lower lanes hold the first 16, the upper lanes the others.
  void ScoreStep(const uint32_t* codes, int16_t* scores) const {
    __m256i low = _mm256_setzero_si256(), high = low;  // sums of the lanes' codes 0-7 and 8-15
    for (int part = 0; part < kBytes / kPlaces; ++part) {
      __m256i places[kPlaces];
      for (int i = 0; i < kPlaces; ++i) {
        const auto at = [&](int half) {
          const int byte = (kBytes <= 16 ? 16 * i : kBytes * i + 16 * part) + half * 16 * kBytes;
          return reinterpret_cast<const __m128i*>(reinterpret_cast<const char*>(codes) + byte);
        };
        places[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(at(0))), _mm_loadu_si128(at(1)), 1);
      }
      Transpose(places);
      for (int i = 0; i < kPlaces; i += 2) {
        const int table = 2 * (16 * part + i);
        // Four lookups: at most 240.
        const __m256i sum = _mm256_add_epi8(LookUp(places[i], table), LookUp(places[i + 1], table + 2));
        low = _mm256_add_epi16(low, _mm256_unpacklo_epi8(sum, _mm256_setzero_si256()));
        high = _mm256_add_epi16(high, _mm256_unpackhi_epi8(sum, _mm256_setzero_si256()));
      }
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(scores), _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(scores + 16), _mm256_permute2x128_si256(low, high, 0x31));
  }

  // From 16 codes of kPlaces bytes, one after the other, to kPlaces vectors of one byte of each code. Interleaving the
  // registers' halves moves the highest bit of a byte's address to the lowest place: four times, the code's number.
  SPOTLIGHT_INLINE static void Transpose(__m256i* x) {
    for (int round = 0; round < 4; ++round) {
      __m256i next[kPlaces];
      for (int i = 0; i < kPlaces / 2; ++i) {
        next[2 * i] = _mm256_unpacklo_epi8(x[i], x[i + kPlaces / 2]);
        next[2 * i + 1] = _mm256_unpackhi_epi8(x[i], x[i + kPlaces / 2]);
      }
      for (int i = 0; i < kPlaces; ++i) x[i] = next[i];
    }
  }

  SPOTLIGHT_INLINE __m256i LookUp(__m256i bytes, int table) const {
    const __m256i mask = _mm256_set1_epi8(0xf);
    const __m256i low = _mm256_and_si256(bytes, mask), high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
    return _mm256_add_epi8(_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(tables_[table]), low),
                           _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(tables_[table + 1]), high));
  }

  __m128i tables_[2 * kBytes];  // of the low and the high nibble of each byte
};

// body(scorers), one for each of `count` planes.
template <int kWords, class Body>
SPOTLIGHT_INLINE void WithScorers(const ScorePlanes* planes, int count, const Body& body) {
  TableScorer<kWords> scorers[kScoreHeads];
  for (int i = 0; i < count; ++i) scorers[i].Set(planes[i]);
  body(scorers);
}

}  // namespace
}  // namespace spotlight::kernels::cpu
