// Perplexity of a model that retrieves, beside the dense model's and that of the best selection there is. See TASKS.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "training/evaluation/copy_texts.h"
#include "training/evaluation/progress.h"
#include "training/evaluation/sparse_sequence.h"

namespace spotlight::training {

struct PerplexityOptions {
  SparseRunOptions run;         // run.budget.ratio is replaced by each of `budgets`
  std::vector<double> budgets;  // ratios of the context
};

struct PerplexityRow {
  std::string text, kind;   // of the sequence
  std::string selector;     // its name
  double budget = 0;        // ratio
  int64_t num_scored = 0;   // tokens counted
  double dense = 0;         // perplexity when everything is attended to
  double oracle_b = 0;      // with oracle B's selection at this budget; 0 when no oracle was given
  double value = 0;         // with the selector's
  double agreement = 0;     // share of the scored tokens where its greedy token is the dense model's
  double log_prob_gap = 0;  // mean over them of |log-probability - dense's|: drift that cancels in perplexity
};

// A row for each sequence, budget and selector, in this order. `oracle_b` may be null, and may be one of `selectors`.
// One dense pass a sequence, then one pass over its later tokens for each budget and selector. INVALID_ARGUMENT: a
// budget outside (0, 1], a sequence that the model's context does not hold.
absl::StatusOr<std::vector<PerplexityRow>> MeasurePerplexity(const SequenceModel& model,
                                                             absl::Span<const ScoredSequence> sequences,
                                                             absl::Span<Selector* const> selectors, Selector* oracle_b,
                                                             const PerplexityOptions& options,
                                                             const ProgressFunction& progress);

}  // namespace spotlight::training
