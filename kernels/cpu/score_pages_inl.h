// Scoring codes that lie one after the other, and codes that lie in pages. Included once per instruction set, after its
// WithScorers.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/score_prefetch_inl.h"

namespace spotlight::kernels::cpu {
namespace {

// A page's heads one after the other, as they lie: neighbours share the translation of their address.
template <int kWords>
void ScorePagesOf(const ScorePlanes* planes, const PagedCodes& pages, int32_t begin, int32_t end,
                  int16_t* const* scores) {
  constexpr int kHeadWords = kPageTokens * kWords;
  const auto codes_of = [&](int32_t page) {
    return pages.codes + (int64_t{pages.page_table[page]} * pages.num_kv_heads + pages.first_head) * kHeadWords;
  };
  const int32_t ahead = (kPrefetchBytes / (4 * kHeadWords) + pages.num_heads - 1) / pages.num_heads;  // pages
  const int32_t first_page = begin / kPageTokens, end_page = (end + kPageTokens - 1) / kPageTokens;
  for (int32_t page = first_page; page < first_page + ahead && page < end_page; ++page) {
    for (int32_t h = 0; h < pages.num_heads; ++h) PrefetchLater<kHeadWords>(codes_of(page) + h * kHeadWords);
  }
  WithScorers<kWords>(planes, pages.num_heads, [&](const auto* scorers) {
    for (int32_t page = first_page; page < end_page; ++page) {
      const uint32_t* const codes = codes_of(page);
      const uint32_t* const later = codes_of(page + ahead < pages.num_pages ? page + ahead : page);
      const int32_t page_begin = page * kPageTokens;
      const int32_t from = begin > page_begin ? begin : page_begin;
      const int32_t to = end < page_begin + kPageTokens ? end : page_begin + kPageTokens;
      for (int32_t h = 0; h < pages.num_heads; ++h) {
        scorers[h].Score(codes + h * kHeadWords + (from - page_begin) * kWords, to - from, later + h * kHeadWords,
                         scores[h] + (from - begin));
      }
    }
  });
}

void ScorePages(const ScorePlanes* planes, const PagedCodes& pages, int32_t begin, int32_t end,
                int16_t* const* scores) {
  switch (planes->words) {
    case 1:
      return ScorePagesOf<1>(planes, pages, begin, end, scores);
    case 2:
      return ScorePagesOf<2>(planes, pages, begin, end, scores);
    case 4:
      return ScorePagesOf<4>(planes, pages, begin, end, scores);
    default:
      return ScorePagesOf<8>(planes, pages, begin, end, scores);
  }
}

template <int kWords>
void ScoreRun(const ScorePlanes& planes, const uint32_t* codes, int64_t count, int16_t* scores) {
  WithScorers<kWords>(&planes, 1, [&](const auto* scorers) { scorers[0].Score(codes, count, codes, scores); });
}

void Score(const ScorePlanes& planes, const uint32_t* codes, int64_t count, int16_t* scores) {
  switch (planes.words) {
    case 1:
      return ScoreRun<1>(planes, codes, count, scores);
    case 2:
      return ScoreRun<2>(planes, codes, count, scores);
    case 4:
      return ScoreRun<4>(planes, codes, count, scores);
    default:
      return ScoreRun<8>(planes, codes, count, scores);
  }
}

}  // namespace
}  // namespace spotlight::kernels::cpu
