// Which steps judge retrieval against exact attention, and what becomes of a request for which it is not good enough.
// Pure: the steps, the rows in line and what was measured decide.
//
// Sampling. One step in `sample_every`, of those with a row that retrieves, measures one row in one hashed layer: the
// cost of a sample is bounded, however many rows there are. Rows stand in line; the row that was measured goes to the
// end of it. A request's samples visit all hashed layers, far ones after each other, and begin at a layer that its
// sequence id picks.
//
// Guardrail (floor > 0). A sample is low when its attention mass is under the floor. A request with a low sample goes
// to the head of the line until a sample is not low, or `low_samples` of them, in layers far apart and at least
// sample_every steps from each other, were: then it falls back. To dense attention, to the request's end: nothing
// measures a dense row, so nothing could tell that retrieval would do again. Or first to larger budgets,
// kFallbackBudgetFactor times the one before up to kMaxFallbackBudget, each judged anew, and to dense attention from
// there. When a request is measured depends on the rows beside it; so, with a floor, does the token at which it falls
// back.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "engine/batch.h"
#include "engine/model_info.h"
#include "engine/model_runner.h"
#include "engine/options.h"
#include "engine/sequence.h"
#include "engine/step_plan.h"
#include "engine/step_stats.h"

namespace spotlight::engine {

inline constexpr double kFallbackBudgetFactor = 4;
inline constexpr double kMaxFallbackBudget = 0.25;  // sparse attention to more than this saves little

// Engine thread only.
class QualityPolicy {
 public:
  // INVALID_ARGUMENT names the option: a count below its least, a floor outside [0, 1] or without samples.
  static absl::StatusOr<QualityPolicy> Create(const QualityOptions& options, const RetrievalOptions& retrieval,
                                              const ModelInfo& model);

  // What the step is to measure, if anything. Asked once for each step, after SplitByRetrieval.
  absl::optional<QualityTarget> PlanSample(const StepPlan& plan);

  // Takes what was measured for a row of `sequence`, whose fallback, where one is due, holds from the next plan on.
  // Values that are not finite (an attention output of zero, a broken model) tell nothing and count for nothing; nor
  // does the request fall back for what was planned before its latest fallback.
  QualitySample Judge(const QualityReading& reading, Sequence* sequence) const;

  // What was measured was of a sequence that has ended: the next step with a row that retrieves samples in its place,
  // but in place of none that was itself such a one.
  void OnLost() { in_place_ = std::exchange(may_replace_, false); }

 private:
  QualityPolicy() = default;
  int32_t NextLayer(const Sequence& sequence) const;
  void FallBack(Sequence* sequence) const;

  QualityOptions options_;
  double budget_ratio_ = 0;      // the server's
  std::vector<int32_t> layers_;  // hashed
  int64_t layer_stride_ = 1;     // of a request's samples; coprime to their number
  int64_t num_sparse_steps_ = 0, num_samples_ = 0;
  bool in_place_ = false;     // the next step samples for one that was lost
  bool may_replace_ = false;  // the latest sample, if it is lost
};

}  // namespace spotlight::engine
