#include "training/evaluation/copy_texts.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace spotlight::training {
namespace {

constexpr int64_t kMinTokens = 8;

absl::Status CheckTokens(const std::string& text, absl::Span<const int32_t> source, int64_t tokens) {
  if (tokens < kMinTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat(text, ": a sequence needs at least ", kMinTokens, " tokens, got ", tokens));
  }
  if (static_cast<int64_t>(source.size()) < tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat(text, ": has ", source.size(), " tokens, a sequence of ", tokens, " was asked for"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ScoredSequence> RunningText(const std::string& text, absl::Span<const int32_t> source, int64_t tokens) {
  if (auto status = CheckTokens(text, source, tokens); !status.ok()) return status;
  ScoredSequence sequence;
  sequence.text = text;
  sequence.kind = "running";
  sequence.token_ids.assign(source.begin(), source.begin() + tokens);
  sequence.dense_tokens = sequence.first_query = tokens / 2;
  return sequence;
}

absl::StatusOr<ScoredSequence> RepeatedText(const std::string& text, absl::Span<const int32_t> source, int64_t tokens) {
  auto sequence = RunningText(text, source, tokens);
  if (!sequence.ok()) return sequence;
  sequence->kind = "repeat";
  std::vector<int32_t>& ids = sequence->token_ids;
  ids.resize(2 * sequence->dense_tokens);
  std::copy_n(ids.begin(), sequence->dense_tokens, ids.begin() + sequence->dense_tokens);
  return sequence;
}

absl::StatusOr<ScoredSequence> NeedlePassage(const std::string& text, absl::Span<const int32_t> source, int64_t tokens,
                                             int64_t passage_tokens) {
  auto sequence = RunningText(text, source, tokens);
  if (!sequence.ok()) return sequence;
  if (passage_tokens == 0) passage_tokens = std::min(kNeedlePassageTokens, tokens / 4);
  const int64_t begin = tokens / 8, again = tokens - passage_tokens;
  if (passage_tokens < kMinTokens || begin + passage_tokens > tokens / 2 || again < sequence->dense_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat(text, ": a passage of ", passage_tokens, " tokens does not fit a needle sequence of ", tokens));
  }
  sequence->kind = "needle";
  std::copy_n(sequence->token_ids.begin() + begin, passage_tokens, sequence->token_ids.begin() + again);
  sequence->first_query = again + passage_tokens / 8;
  return sequence;
}

}  // namespace spotlight::training
