// How likely the right answer to a generated task is when the model retrieves: teacher-forced, so that selectors can be
// told apart even where the model is too small to answer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "training/evaluation/sparse_sequence.h"
#include "training/evaluation/tasks/encoded_example.h"

namespace spotlight::training {

// Natural log-probabilities per token of the answer, the mean over its tokens.
struct AnswerScore {
  double log_prob = 0;
  bool greedy = false;  // every token of the answer is the greedy one
};

struct AnswerScores {
  AnswerScore dense;
  std::vector<std::vector<AnswerScore>> sparse;  // [budgets][selectors]
};

// The context is prefilled dense; the question's tokens and the answer's retrieve. (A server prefills the question
// dense too, and its first token of answer with it: this is the harder test.) `run.budget.ratio` is replaced by each
// budget.
absl::StatusOr<AnswerScores> ScoreAnswer(const SequenceModel& model, const EncodedExample& example,
                                         absl::Span<const double> budgets, absl::Span<Selector* const> selectors,
                                         const SparseRunOptions& run);

}  // namespace spotlight::training
