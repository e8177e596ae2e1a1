#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "training/evaluation/greedy.h"
#include "training/evaluation/task_scores.h"
#include "training/evaluation/tasks/string_match.h"

namespace spotlight::training {
namespace {

// `has_text` becomes true when the answer has any: one of special tokens alone has none.
absl::StatusOr<double> ScoreGeneratedAnswer(engine::Engine* engine, const EncodedExample& example,
                                            absl::optional<double> budget, bool* has_text) {
  std::vector<int32_t> prompt = example.context;
  prompt.insert(prompt.end(), example.question.begin(), example.question.end());
  auto answer = AnswerGreedily(engine, prompt, static_cast<int32_t>(example.max_answer_tokens()), budget);
  if (!answer.ok()) return answer.status();
  *has_text = *has_text || !answer->text.empty();
  return StringMatch(answer->text, example.example.references);
}

}  // namespace

absl::StatusOr<std::vector<TaskAnswerRow>> MeasureTaskAnswers(engine::Engine* engine, absl::Span<const TaskCell> cells,
                                                              absl::Span<const double> budgets,
                                                              const ProgressFunction& progress) {
  EvaluationProgress done;
  for (const TaskCell& cell : cells) done.total += static_cast<int64_t>(cell.examples.size());
  bool has_text = false;
  std::vector<TaskAnswerRow> rows;
  for (const TaskCell& cell : cells) {
    double dense = 0;
    std::vector<double> sparse(budgets.size(), 0);
    for (const EncodedExample& example : cell.examples) {
      auto score = ScoreGeneratedAnswer(engine, example, absl::nullopt, &has_text);
      if (!score.ok()) return score.status();
      dense += *score;
      for (size_t b = 0; b < budgets.size(); ++b) {
        score = ScoreGeneratedAnswer(engine, example, budgets[b], &has_text);
        if (!score.ok()) return score.status();
        sparse[b] += *score;
      }
      ++done.done;
      done.what = absl::StrCat("answers: ", cell.task, ", ", cell.length, " tokens");
      if (progress) progress(done);
    }
    for (size_t b = 0; b < budgets.size(); ++b) {
      TaskAnswerRow row;
      row.task = cell.task;
      row.length = cell.length;
      row.depth = cell.depth;
      row.budget = budgets[b];
      row.num_examples = static_cast<int64_t>(cell.examples.size());
      row.dense = dense / static_cast<double>(cell.examples.size());
      row.value = sparse[b] / static_cast<double>(cell.examples.size());
      rows.push_back(std::move(row));
    }
  }
  if (!rows.empty() && !has_text) {
    return absl::FailedPreconditionError("no answer has any text: does the model have a tokenizer to read them with?");
  }
  return rows;
}

}  // namespace spotlight::training
