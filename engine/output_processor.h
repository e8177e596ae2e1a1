// One request's tokens to text, and the decision that it is finished.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "engine/model_runner.h"
#include "engine/request.h"
#include "engine/response_sink.h"
#include "engine/stop_matcher.h"
#include "engine/tokenizer/tokenizer.h"

namespace spotlight::engine {

// Ends a request at an end-of-sequence token, a stop token, a stop string (none of them before min_tokens tokens), or
// max_output_tokens, whichever comes first. The text of an end-of-sequence token is never given out, that of a stop
// string or token only with include_stop. Thread-compatible.
class OutputProcessor {
 public:
  struct Output {
    Delta delta;
    FinishReason reason = FinishReason::kNone;  // kStop or kLength: this was the last token
    absl::optional<std::string> matched_stop;
    absl::optional<int32_t> matched_stop_token;
  };

  // Shares the tokenizer's data. Without a tokenizer there is no text, and no stop string can match.
  static absl::StatusOr<std::unique_ptr<OutputProcessor>> Create(const Tokenizer* tokenizer, StoppingParams stopping,
                                                                 std::vector<int32_t> eos_token_ids,
                                                                 int32_t max_output_tokens, bool with_logprobs);

  // The next token. INTERNAL when the tokenizer cannot decode it. Not to be called after a reason was given.
  absl::StatusOr<Output> Process(const SampledToken& token);

  int32_t num_tokens() const { return num_tokens_; }

 private:
  OutputProcessor(std::unique_ptr<DecodeStream> decoder, StoppingParams stopping, std::vector<int32_t> eos_token_ids,
                  int32_t max_output_tokens, bool with_logprobs);

  std::unique_ptr<DecodeStream> decoder_;  // null without a tokenizer
  StopMatcher matcher_;
  const StoppingParams stopping_;
  const std::vector<int32_t> eos_token_ids_;  // empty where they are ignored
  const int32_t max_output_tokens_;
  const bool with_logprobs_;
  int32_t num_tokens_ = 0;
};

}  // namespace spotlight::engine
