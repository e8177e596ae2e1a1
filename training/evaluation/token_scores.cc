#include "training/evaluation/token_scores.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "training/torch_errors.h"

namespace spotlight::training {
namespace {

constexpr int64_t kLogitBytes = int64_t{128} << 20;  // of one pass

}  // namespace

absl::StatusOr<TokenScores> ScoreTokens(const SequenceModel& model, const at::Tensor& states,
                                        absl::Span<const int32_t> targets) {
  const auto count = static_cast<int64_t>(targets.size());
  if (states.size(0) != count) {
    return absl::InvalidArgumentError(absl::StrCat(states.size(0), " states were given for ", count, " targets"));
  }
  TokenScores scores;
  const absl::Status status = CatchTorch("scoring tokens", [&] {
    const c10::AutoGradMode no_autograd(false);
    const int64_t chunk = std::max<int64_t>(1, kLogitBytes / (4 * int64_t{model.config().vocab_size}));
    for (int64_t begin = 0; begin < count; begin += chunk) {
      const int64_t rows = std::min(chunk, count - begin);
      const at::Tensor logits = model.Logits(states.narrow(0, begin, rows));  // [rows, vocab] float
      const at::Tensor target =
          at::tensor(at::ArrayRef<int32_t>(targets.data() + begin, rows), at::TensorOptions().dtype(at::kInt))
              .to(logits.device(), at::kLong)
              .unsqueeze(1);
      const at::Tensor log_prob = (logits.gather(1, target).squeeze(1) - at::logsumexp(logits, 1)).cpu();
      const at::Tensor greedy = at::argmax(logits, 1).to(at::kCPU, at::kInt);
      scores.log_prob.insert(scores.log_prob.end(), log_prob.data_ptr<float>(), log_prob.data_ptr<float>() + rows);
      scores.greedy.insert(scores.greedy.end(), greedy.data_ptr<int32_t>(), greedy.data_ptr<int32_t>() + rows);
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return scores;
}

double Perplexity(absl::Span<const float> log_prob) {
  double sum = 0;
  for (const float value : log_prob) sum -= value;
  return std::exp(sum / static_cast<double>(log_prob.size()));
}

}  // namespace spotlight::training
