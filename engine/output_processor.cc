#include "engine/output_processor.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace spotlight::engine {
namespace {

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

absl::Status Undecodable(int32_t token_id, const absl::Status& status) {
  return absl::InternalError(absl::StrCat("token ", token_id, " cannot be decoded: ", status.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<OutputProcessor>> OutputProcessor::Create(const Tokenizer* tokenizer,
                                                                         StoppingParams stopping,
                                                                         std::vector<int32_t> eos_token_ids,
                                                                         int32_t max_output_tokens,
                                                                         bool with_logprobs) {
  std::unique_ptr<DecodeStream> decoder;
  if (tokenizer != nullptr) {
    auto created = DecodeStream::Create(*tokenizer, /*skip_special_tokens=*/true);
    if (!created.ok()) return created.status();
    decoder = *std::move(created);
  }
  return std::unique_ptr<OutputProcessor>(new OutputProcessor(
      std::move(decoder), std::move(stopping), std::move(eos_token_ids), max_output_tokens, with_logprobs));
}

OutputProcessor::OutputProcessor(std::unique_ptr<DecodeStream> decoder, StoppingParams stopping,
                                 std::vector<int32_t> eos_token_ids, int32_t max_output_tokens, bool with_logprobs)
    : decoder_(std::move(decoder)),
      matcher_(stopping.stop),
      stopping_(std::move(stopping)),
      eos_token_ids_(stopping_.ignore_eos ? std::vector<int32_t>() : std::move(eos_token_ids)),
      max_output_tokens_(max_output_tokens),
      with_logprobs_(with_logprobs) {}

absl::StatusOr<OutputProcessor::Output> OutputProcessor::Process(const SampledToken& token) {
  ++num_tokens_;
  Output output;
  output.delta.token_ids.push_back(token.token_id);
  if (with_logprobs_) output.delta.logprobs.push_back(token.logprob);

  const bool may_stop = num_tokens_ >= stopping_.min_tokens;
  const bool stop_token = may_stop && Contains(stopping_.stop_token_ids, token.token_id);
  const bool end_of_sequence = may_stop && Contains(eos_token_ids_, token.token_id);
  const bool last = stop_token || end_of_sequence || num_tokens_ >= max_output_tokens_;

  std::string text;
  if (decoder_ != nullptr && !end_of_sequence && (!stop_token || stopping_.include_stop)) {
    absl::StatusOr<std::string> piece = decoder_->Step(token.token_id);
    if (!piece.ok()) return Undecodable(token.token_id, piece.status());
    text = *std::move(piece);
  }
  if (decoder_ != nullptr && last) {
    absl::StatusOr<std::string> rest = decoder_->Flush();
    if (!rest.ok()) return Undecodable(token.token_id, rest.status());
    text += *rest;
  }

  StopMatcher::Released released = matcher_.Push(text, may_stop);
  output.delta.text = std::move(released.text);
  if (released.matched.has_value()) {
    if (stopping_.include_stop) output.delta.text += *released.matched;
    output.reason = FinishReason::kStop;
    output.matched_stop = std::move(released.matched);
    return output;
  }
  if (!last) return output;
  output.delta.text += matcher_.Flush();
  if (stop_token || end_of_sequence) {
    output.reason = FinishReason::kStop;
    output.matched_stop_token = token.token_id;
  } else {
    output.reason = FinishReason::kLength;
  }
  return output;
}

}  // namespace spotlight::engine
