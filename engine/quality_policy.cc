#include "engine/quality_policy.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "absl/strings/str_cat.h"

namespace spotlight::engine {
namespace {

// About the golden section: samples that follow each other are far apart in depth.
int64_t LayerStride(int64_t num_layers) {
  int64_t stride = std::max<int64_t>(1, std::llround(0.618 * static_cast<double>(num_layers)));
  while (std::gcd(stride, num_layers) > 1) ++stride;
  return stride;
}

bool IsFinite(const RetrievalQuality& quality) {
  return std::isfinite(quality.recall) && std::isfinite(quality.iou) && std::isfinite(quality.attention_mass) &&
         std::isfinite(quality.output_error);
}

}  // namespace

absl::StatusOr<QualityPolicy> QualityPolicy::Create(const QualityOptions& options, const RetrievalOptions& retrieval,
                                                    const ModelInfo& model) {
  if (options.sample_every < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("quality sample_every: must be at least 0, got ", options.sample_every));
  }
  if (!(options.floor >= 0 && options.floor <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("quality floor: must be in [0, 1], got ", options.floor));
  }
  if (options.floor > 0 && options.sample_every == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("quality floor: ", options.floor, " needs samples, and quality sample_every is 0"));
  }
  if (options.low_samples < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("quality low_samples: must be at least 1, got ", options.low_samples));
  }
  QualityPolicy policy;
  policy.options_ = options;
  policy.budget_ratio_ = retrieval.budget.ratio;
  if (model.hash.present) policy.layers_ = model.hash.layers;
  policy.layer_stride_ = LayerStride(static_cast<int64_t>(policy.layers_.size()));
  return policy;
}

absl::optional<QualityTarget> QualityPolicy::PlanSample(const StepPlan& plan) {
  if (options_.sample_every == 0 || plan.num_dense_rows == plan.num_decode_rows) return absl::nullopt;
  if (++num_sparse_steps_ % options_.sample_every == 0) {
    may_replace_ = true;
  } else if (!std::exchange(in_place_, false)) {
    return absl::nullopt;
  }
  const int64_t sample = num_samples_++;
  const auto place = [](const Sequence& sequence) {
    return std::make_tuple(sequence.quality.num_low_samples == 0, sequence.quality.in_line_since, sequence.id);
  };
  int32_t next = plan.num_dense_rows;
  for (int32_t row = plan.num_dense_rows; row < plan.num_decode_rows; ++row) {
    Sequence* const sequence = plan.rows[row].sequence;
    if (sequence->quality.in_line_since < 0) sequence->quality.in_line_since = sample;
    if (place(*sequence) < place(*plan.rows[next].sequence)) next = row;
  }
  Sequence* const sequence = plan.rows[next].sequence;
  sequence->quality.in_line_since = sample + 1;
  const QualityTarget target{next, NextLayer(*sequence), sequence->id, sequence->quality.fallback.count};
  ++sequence->quality.num_samples;
  return target;
}

int32_t QualityPolicy::NextLayer(const Sequence& sequence) const {
  const auto num_layers = static_cast<int64_t>(layers_.size());
  const auto first = static_cast<int64_t>(sequence.id % layers_.size());
  return layers_[(first + sequence.quality.num_samples * layer_stride_) % num_layers];
}

QualitySample QualityPolicy::Judge(const QualityReading& reading, Sequence* sequence) const {
  const RetrievalQuality& measured = reading.measured;
  QualitySample sample;
  sample.layer = reading.target.layer;
  sample.measured = measured;
  if (!IsFinite(measured)) {
    sample.outcome = QualityOutcome::kNotFinite;
    return sample;
  }
  QualityState& state = sequence->quality;
  const bool counts = reading.target.num_fallbacks == state.fallback.count;
  if (!(measured.attention_mass < options_.floor)) {
    if (counts) state.num_low_samples = 0;
    return sample;
  }
  sample.outcome = QualityOutcome::kLow;
  if (!counts || ++state.num_low_samples < options_.low_samples) return sample;
  state.num_low_samples = 0;
  FallBack(sequence);
  sample.fallback = state.fallback.dense ? QualityFallback::kDense : QualityFallback::kBudget;
  return sample;
}

void QualityPolicy::FallBack(Sequence* sequence) const {
  RetrievalFallback& fallback = sequence->quality.fallback;
  const double budget =
      fallback.count > 0 ? fallback.budget_ratio : sequence->retrieval.budget_ratio.value_or(budget_ratio_);
  if (fallback.count++ == 0) fallback.after_tokens = static_cast<int32_t>(sequence->output_token_ids.size());
  fallback.dense = options_.fallback == QualityFallback::kDense || budget >= kMaxFallbackBudget;
  fallback.budget_ratio = fallback.dense ? 0 : std::min(kMaxFallbackBudget, kFallbackBudgetFactor * budget);
}

}  // namespace spotlight::engine
