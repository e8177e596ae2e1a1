// Scoring by the 64-bit population count. Included by the baseline's translation unit.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/score_prefetch_inl.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::cpu {
namespace {

template <int kWords>
class PopcountScorer {
 public:
  void Set(const ScorePlanes& planes) {
    num_planes_ = planes.num_planes;
    top_plane_weight_ = planes.top_plane_weight;
    for (int j = 0; j < planes.num_planes; ++j) {
      std::memcpy(inverted_[j], planes.inverted + j * kWords, kWords * sizeof(uint32_t));
    }
  }

  void Score(const uint32_t* codes, int64_t count, const uint32_t* later, int16_t* scores) const {
    for (int64_t i = 0; i < count; ++i) {
      if (i * kWords % 16 == 0) PrefetchLater<16>(later + i * kWords);
      uint64_t code[kPairs] = {};
      std::memcpy(code, codes + i * kWords, kWords * sizeof(uint32_t));
      int raw = 0;
      for (int j = 0; j < num_planes_; ++j) {
        int matches = 0;
        for (int w = 0; w < kPairs; ++w) matches += __builtin_popcountll(code[w] ^ inverted_[j][w]);
        raw += matches * (j == num_planes_ - 1 ? top_plane_weight_ : 1 << j);
      }
      scores[i] = static_cast<int16_t>(raw);
    }
  }

 private:
  static constexpr int kPairs = (kWords + 1) / 2;
  int num_planes_ = 0, top_plane_weight_ = 0;
  uint64_t inverted_[kMaxPlanes][kPairs] = {};
};

// body(scorers), one for each of `count` planes.
template <int kWords, class Body>
SPOTLIGHT_INLINE void WithScorers(const ScorePlanes* planes, int count, const Body& body) {
  PopcountScorer<kWords> scorers[kScoreHeads];
  for (int i = 0; i < count; ++i) scorers[i].Set(planes[i]);
  body(scorers);
}

}  // namespace
}  // namespace spotlight::kernels::cpu
