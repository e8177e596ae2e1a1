// Token sequences that perplexity is measured on: running text, and text that must copy what is far away. Perplexity of
// running text hardly tells selectors apart; copying does. No torch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace spotlight::training {

inline constexpr int64_t kNeedlePassageTokens = 512;

struct ScoredSequence {
  std::string text;                // where the tokens come from: "books", "code", a file's name
  std::string kind;                // "running", "repeat" or "needle"
  std::vector<int32_t> token_ids;  // [T]
  int64_t dense_tokens = 0;        // P: tokens [0, P) are prefilled dense, each later one retrieves
  int64_t first_query = 0;         // >= P: the predictions made at tokens [first_query, T - 1) are scored
};

// The first `tokens` of `source`; its second half retrieves and is scored. INVALID_ARGUMENT, here and below: too few
// tokens in the source, or too few asked for.
absl::StatusOr<ScoredSequence> RunningText(const std::string& text, absl::Span<const int32_t> source, int64_t tokens);

// The first half of that, twice: the second time everything can be looked up.
absl::StatusOr<ScoredSequence> RepeatedText(const std::string& text, absl::Span<const int32_t> source, int64_t tokens);

// Running text whose last `passage_tokens` are those that began at token T / 8: a passage comes again. The second half
// retrieves; the passage's last 7/8 are scored, its first eighth tells where to look. 0: kNeedlePassageTokens, or T / 4
// where that is less.
absl::StatusOr<ScoredSequence> NeedlePassage(const std::string& text, absl::Span<const int32_t> source, int64_t tokens,
                                             int64_t passage_tokens = 0);

}  // namespace spotlight::training
