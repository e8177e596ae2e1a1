// The tokens that one (row, KV head) attends to, as positions [0, size()) in ascending token order: the sinks, the
// selected candidates, the recent tokens. The same few lines for reference, CPU and CUDA.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SPOTLIGHT_HOST_DEVICE __host__ __device__
#else
#define SPOTLIGHT_HOST_DEVICE
#endif

namespace spotlight::kernels {

struct TokenList {
  const int32_t* selected = nullptr;  // ascending
  int32_t num_selected = 0;
  int32_t sink_tokens = 0;
  int32_t recent_begin = 0;
  int32_t context_len = 0;

  SPOTLIGHT_HOST_DEVICE int32_t size() const { return sink_tokens + num_selected + context_len - recent_begin; }
  SPOTLIGHT_HOST_DEVICE int32_t operator[](int32_t position) const {
    if (position < sink_tokens) return position;
    if (position < sink_tokens + num_selected) return selected[position - sink_tokens];
    return position - sink_tokens - num_selected + recent_begin;
  }
};

SPOTLIGHT_HOST_DEVICE inline TokenList AllTokens(int32_t context_len) {
  TokenList list;
  list.context_len = context_len;
  return list;
}

// How a row takes part in retrieval: candidates are [begin, begin + count), of which `num_select` are chosen; 0: the
// row attends to everything.
struct Competition {
  int32_t begin = 0, count = 0, num_select = 0;
};

SPOTLIGHT_HOST_DEVICE inline Competition CompetitionOf(int32_t context_len, int32_t num_select, int32_t sink_tokens,
                                                       int32_t recent_tokens) {
  Competition competition;
  const int32_t count = context_len - sink_tokens - recent_tokens;
  if (num_select <= 0 || count <= 0) return competition;
  competition.begin = sink_tokens;
  competition.count = count;
  competition.num_select = num_select < count ? num_select : count;
  return competition;
}

SPOTLIGHT_HOST_DEVICE inline TokenList TokensOf(const Competition& competition, const int32_t* selected,
                                                int32_t context_len) {
  if (competition.num_select == 0) return AllTokens(context_len);
  TokenList list;
  list.selected = selected;
  list.num_selected = competition.num_select;
  list.sink_tokens = competition.begin;
  list.recent_begin = competition.begin + competition.count;
  list.context_len = context_len;
  return list;
}

}  // namespace spotlight::kernels
