#include "training/evaluation/fidelity.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "training/evaluation/greedy.h"

namespace spotlight::training {
namespace {

size_t FirstDifference(absl::Span<const int32_t> one, absl::Span<const int32_t> other) {
  return std::mismatch(one.begin(), one.begin() + std::min(one.size(), other.size()), other.begin()).first -
         one.begin();
}

// `free_run`: the sparse continuation of the whole, which is also the first of the runs held to `dense`.
absl::Status HoldToDense(engine::Engine* engine, const std::vector<int32_t>& prompt, const std::vector<int32_t>& dense,
                         double budget, std::vector<int32_t> run, FidelityRow* row) {
  size_t begin = 0;  // of the run, in the continuation
  int64_t differences = 0;
  while (true) {
    const size_t equal = FirstDifference(run, absl::MakeConstSpan(dense).subspan(begin));
    const bool differs = equal < run.size();
    // The run's first token comes from a dense prefill and is not judged.
    row->num_judged += static_cast<int64_t>(equal) + (differs ? 1 : 0) - 1;
    differences += differs && equal > 0;
    if (!differs) break;
    begin += equal + 1;
    if (begin + 1 >= dense.size()) break;  // nothing left that a sparse step would give
    std::vector<int32_t> longer = prompt;
    longer.insert(longer.end(), dense.begin(), dense.begin() + static_cast<int64_t>(begin));
    auto answer = AnswerGreedily(engine, longer, static_cast<int32_t>(dense.size() - begin), budget);
    if (!answer.ok()) return answer.status();
    run = std::move(answer->token_ids);
  }
  row->agreement =
      row->num_judged == 0 ? 1 : 1 - static_cast<double>(differences) / static_cast<double>(row->num_judged);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<FidelityRow>> MeasureFidelity(engine::Engine* engine,
                                                         absl::Span<const FidelityPrompt> prompts,
                                                         const FidelityOptions& options,
                                                         const ProgressFunction& progress) {
  if (options.num_tokens < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("fidelity: a continuation needs at least 2 tokens, got ", options.num_tokens));
  }
  EvaluationProgress done;
  done.total = static_cast<int64_t>(prompts.size() * (1 + options.budgets.size()));
  const auto step = [&](const std::string& what) {
    ++done.done;
    done.what = absl::StrCat("fidelity: ", what);
    if (progress) progress(done);
  };
  std::vector<FidelityRow> rows;
  for (const FidelityPrompt& prompt : prompts) {
    auto dense = AnswerGreedily(engine, prompt.token_ids, options.num_tokens, absl::nullopt);
    if (!dense.ok()) return dense.status();
    step(absl::StrCat(prompt.text, ", dense"));
    for (const double budget : options.budgets) {
      auto sparse = AnswerGreedily(engine, prompt.token_ids, options.num_tokens, budget);
      if (!sparse.ok()) return sparse.status();
      FidelityRow row;
      row.text = prompt.text;
      row.budget = budget;
      row.prompt_tokens = static_cast<int64_t>(prompt.token_ids.size());
      row.num_tokens = options.num_tokens;
      row.first_divergence = static_cast<int64_t>(FirstDifference(sparse->token_ids, dense->token_ids));
      for (size_t i = 0; i < dense->token_ids.size(); ++i)
        row.equal_share += sparse->token_ids[i] == dense->token_ids[i];
      row.equal_share /= options.num_tokens;
      row.selected_ratio = sparse->selected_ratio;
      if (auto status = HoldToDense(engine, prompt.token_ids, dense->token_ids, budget, sparse->token_ids, &row);
          !status.ok()) {
        return status;
      }
      step(absl::StrCat(prompt.text, ", ", 100 * budget, "%"));
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

absl::StatusOr<ScoredSequence> DenseContinuation(engine::Engine* engine, const FidelityPrompt& prompt,
                                                 int32_t num_tokens) {
  auto dense = AnswerGreedily(engine, prompt.token_ids, num_tokens, absl::nullopt);
  if (!dense.ok()) return dense.status();
  ScoredSequence sequence;
  sequence.text = prompt.text;
  sequence.kind = "continuation";
  sequence.token_ids = prompt.token_ids;
  sequence.token_ids.insert(sequence.token_ids.end(), dense->token_ids.begin(), dense->token_ids.end());
  sequence.dense_tokens = sequence.first_query = static_cast<int64_t>(prompt.token_ids.size());
  return sequence;
}

}  // namespace spotlight::training
