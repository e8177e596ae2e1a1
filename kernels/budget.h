// How many tokens a row may select, and when it is dense. One place: the engine plans with it, kernels receive its
// result.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/layout.h"

namespace spotlight::kernels {

struct Budget {
  double ratio = kBudgetRatio;  // of the context, 0 < ratio <= 1
  int32_t min_tokens = kMinSelectedTokens;
  int32_t sink_tokens = kSinkTokens;      // tokens [0, sink_tokens) are always attended
  int32_t recent_tokens = kRecentTokens;  // tokens [S - recent_tokens, S), the current one included, likewise
};

// Tokens that compete: [sink_tokens, S - recent_tokens).
inline int32_t NumCandidates(const Budget& budget, int32_t context_len) {
  return std::max<int32_t>(0, context_len - budget.sink_tokens - budget.recent_tokens);
}

// K of a row: min(C, max(ceil(ratio * S), min_tokens)); 0 (attend to everything) when C <= min_tokens.
inline int32_t NumSelected(const Budget& budget, int32_t context_len) {
  const int32_t candidates = NumCandidates(budget, context_len);
  if (candidates <= budget.min_tokens) return 0;
  const auto share = static_cast<int32_t>(std::ceil(budget.ratio * context_len));
  return std::min(candidates, std::max(share, budget.min_tokens));
}

}  // namespace spotlight::kernels
