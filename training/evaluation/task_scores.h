// Scores of generated tasks and of the needle grid: how likely the right answer is with any selector, and what a served
// hash file answers. See TASKS.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "engine/engine.h"
#include "training/evaluation/progress.h"
#include "training/evaluation/sparse_sequence.h"
#include "training/evaluation/tasks/task_cells.h"

namespace spotlight::training {

struct TaskLikelihoodOptions {
  SparseRunOptions run;         // run.budget.ratio is replaced by each of `budgets`
  std::vector<double> budgets;  // ratios of the context
};

// Means over a cell's examples of the natural log-probability per token of the right answer, teacher-forced
// (answer_scores.h), and shares of examples whose every answer token is the greedy one.
struct TaskLikelihoodRow {
  std::string task;
  int64_t length = 0;            // tokens, of the cell
  absl::optional<double> depth;  // of the needle grid
  std::string selector;
  double budget = 0;  // ratio
  int64_t num_examples = 0;
  double dense = 0, oracle_b = 0, value = 0;                    // log-probabilities; oracle_b 0 when none was given
  double dense_right = 0, oracle_b_right = 0, value_right = 0;  // shares of examples
};

// A row for each cell, budget and selector. `oracle_b` may be null, and may be one of `selectors`.
absl::StatusOr<std::vector<TaskLikelihoodRow>> MeasureTaskLikelihood(
    const SequenceModel& model, absl::Span<const TaskCell> cells, absl::Span<Selector* const> selectors,
    Selector* oracle_b, const TaskLikelihoodOptions& options, const ProgressFunction& progress);

// RULER's string match, mean over a cell's examples, of greedy answers.
struct TaskAnswerRow {
  std::string task;
  int64_t length = 0;
  absl::optional<double> depth;
  double budget = 0;
  int64_t num_examples = 0;
  double dense = 0, value = 0;
};

// Through the engine, a row for each cell and budget. INVALID_ARGUMENT: an example that the engine's context does not
// hold; FAILED_PRECONDITION: no hash, or no answer has any text (no tokenizer).
absl::StatusOr<std::vector<TaskAnswerRow>> MeasureTaskAnswers(engine::Engine* engine, absl::Span<const TaskCell> cells,
                                                              absl::Span<const double> budgets,
                                                              const ProgressFunction& progress);

}  // namespace spotlight::training
