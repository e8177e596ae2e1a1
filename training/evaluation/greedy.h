// Greedy answers from a running engine: what a served hash file makes of a prompt, as a client would see it. No torch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "engine/engine.h"

namespace spotlight::training {

struct GreedyAnswer {
  std::vector<int32_t> token_ids;
  std::string text;           // empty without a tokenizer
  double selected_ratio = 0;  // mean over sparse steps of attended tokens / context tokens
  int64_t sparse_steps = 0;   // decode steps that retrieved
};

// Exactly `num_tokens` tokens: end-of-sequence tokens do not end it. budget_ratio: absent for a dense answer. The
// prompt is always prefilled dense, so the first token is the dense model's. Blocks; one request at a time keeps
// results free of what else is in the batch. Errors are the engine's.
absl::StatusOr<GreedyAnswer> AnswerGreedily(engine::Engine* engine, const std::vector<int32_t>& prompt,
                                            int32_t num_tokens, absl::optional<double> budget_ratio);

}  // namespace spotlight::training
