// What the model says of the tokens that follow, from its states.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "training/sequence_model.h"

namespace spotlight::training {

struct TokenScores {
  std::vector<float> log_prob;  // [N] natural log-probability of each target
  std::vector<int32_t> greedy;  // [N] the token with the largest logit; of equal ones the lower id
};

// states [N, hidden]; targets [N], the token after each state. Logits are made a few tokens at a time, all sums in
// fp32.
absl::StatusOr<TokenScores> ScoreTokens(const SequenceModel& model, const at::Tensor& states,
                                        absl::Span<const int32_t> targets);

// exp of the mean of -log_prob, summed in double.
double Perplexity(absl::Span<const float> log_prob);

}  // namespace spotlight::training
