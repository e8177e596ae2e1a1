#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "training/evaluation/answer_scores.h"
#include "training/evaluation/task_scores.h"

namespace spotlight::training {
namespace {

// Sums over a cell's examples.
struct Sum {
  double log_prob = 0, right = 0;

  void Add(const AnswerScore& score) {
    log_prob += score.log_prob;
    right += score.greedy;
  }
};

// The cell's sums by [budget][selector], and the dense ones.
struct CellSums {
  Sum dense;
  std::vector<std::vector<Sum>> sparse;
};

}  // namespace

absl::StatusOr<std::vector<TaskLikelihoodRow>> MeasureTaskLikelihood(
    const SequenceModel& model, absl::Span<const TaskCell> cells, absl::Span<Selector* const> selectors,
    Selector* oracle_b, const TaskLikelihoodOptions& options, const ProgressFunction& progress) {
  // The oracle runs once, as a selector that may not be asked for.
  std::vector<Selector*> runs(selectors.begin(), selectors.end());
  if (oracle_b != nullptr && std::find(runs.begin(), runs.end(), oracle_b) == runs.end()) runs.push_back(oracle_b);
  const auto oracle = static_cast<size_t>(std::find(runs.begin(), runs.end(), oracle_b) - runs.begin());

  EvaluationProgress done;
  for (const TaskCell& cell : cells) done.total += static_cast<int64_t>(cell.examples.size());
  std::vector<TaskLikelihoodRow> rows;
  for (const TaskCell& cell : cells) {
    CellSums sums;
    sums.sparse.assign(options.budgets.size(), std::vector<Sum>(runs.size()));
    for (const EncodedExample& example : cell.examples) {
      auto scores = ScoreAnswer(model, example, options.budgets, runs, options.run);
      if (!scores.ok()) return scores.status();
      sums.dense.Add(scores->dense);
      for (size_t b = 0; b < options.budgets.size(); ++b) {
        for (size_t s = 0; s < runs.size(); ++s) sums.sparse[b][s].Add(scores->sparse[b][s]);
      }
      ++done.done;
      done.what = absl::StrCat("tasks: ", cell.task, ", ", cell.length, " tokens");
      if (progress) progress(done);
    }
    const auto count = static_cast<double>(cell.examples.size());
    for (size_t b = 0; b < options.budgets.size(); ++b) {
      for (size_t s = 0; s < selectors.size(); ++s) {
        TaskLikelihoodRow row;
        row.task = cell.task;
        row.length = cell.length;
        row.depth = cell.depth;
        row.selector = selectors[s]->name();
        row.budget = options.budgets[b];
        row.num_examples = static_cast<int64_t>(cell.examples.size());
        row.dense = sums.dense.log_prob / count;
        row.dense_right = sums.dense.right / count;
        row.value = sums.sparse[b][s].log_prob / count;
        row.value_right = sums.sparse[b][s].right / count;
        if (oracle_b != nullptr) {
          row.oracle_b = sums.sparse[b][oracle].log_prob / count;
          row.oracle_b_right = sums.sparse[b][oracle].right / count;
        }
        rows.push_back(std::move(row));
      }
    }
  }
  return rows;
}

}  // namespace spotlight::training
