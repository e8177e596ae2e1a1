#include "training/evaluation/answer_scores.h"

#include "training/evaluation/token_scores.h"

namespace spotlight::training {
namespace {

// states: of the tokens from the question's first on.
absl::StatusOr<AnswerScore> Score(const SequenceModel& model, const EncodedExample& example, const at::Tensor& states) {
  const auto question = static_cast<int64_t>(example.question.size());
  const auto answer = static_cast<int64_t>(example.answer.size());
  auto scores = ScoreTokens(model, states.narrow(0, question - 1, answer), example.answer);
  if (!scores.ok()) return scores.status();
  AnswerScore score;
  for (const float log_prob : scores->log_prob) score.log_prob += log_prob;
  score.log_prob /= static_cast<double>(answer);
  score.greedy = scores->greedy == example.answer;
  return score;
}

}  // namespace

absl::StatusOr<AnswerScores> ScoreAnswer(const SequenceModel& model, const EncodedExample& example,
                                         absl::Span<const double> budgets, absl::Span<Selector* const> selectors,
                                         const SparseRunOptions& run) {
  std::vector<int32_t> ids = example.context;
  ids.insert(ids.end(), example.question.begin(), example.question.end());
  ids.insert(ids.end(), example.answer.begin(), example.answer.end());
  auto dense = RunDense(model, ids, static_cast<int64_t>(example.context.size()));
  if (!dense.ok()) return dense.status();
  AnswerScores scores;
  auto dense_score = Score(model, example, dense->states);
  if (!dense_score.ok()) return dense_score.status();
  scores.dense = *dense_score;
  for (const double budget : budgets) {
    SparseRunOptions options = run;
    options.budget.ratio = budget;
    scores.sparse.emplace_back();
    for (Selector* selector : selectors) {
      auto states = RunSparse(model, *dense, selector, options);
      if (!states.ok()) return states.status();
      auto score = Score(model, example, *states);
      if (!score.ok()) return score.status();
      scores.sparse.back().push_back(*score);
    }
  }
  return scores;
}

}  // namespace spotlight::training
