#include "training/evaluation/perplexity.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "training/evaluation/token_scores.h"

namespace spotlight::training {
namespace {

absl::Status Check(absl::Span<const ScoredSequence> sequences, const PerplexityOptions& options) {
  for (const double budget : options.budgets) {
    if (!(budget > 0 && budget <= 1)) {
      return absl::InvalidArgumentError(absl::StrCat("budget: must be in (0, 1], got ", budget));
    }
  }
  for (const ScoredSequence& sequence : sequences) {
    const auto tokens = static_cast<int64_t>(sequence.token_ids.size());
    if (sequence.first_query < sequence.dense_tokens || sequence.first_query >= tokens - 1) {
      return absl::InvalidArgumentError(absl::StrCat(sequence.text, ", ", sequence.kind, ": scored from token ",
                                                     sequence.first_query, " on, which must be in [",
                                                     sequence.dense_tokens, ", ", tokens - 1, ")"));
    }
  }
  return absl::OkStatus();
}

// One sequence: what is common to all that run over it.
class SequenceScorer {
 public:
  static absl::StatusOr<SequenceScorer> Create(const SequenceModel& model, const ScoredSequence& sequence) {
    SequenceScorer scorer(model, sequence);
    auto dense = RunDense(model, sequence.token_ids, sequence.dense_tokens);
    if (!dense.ok()) return dense.status();
    scorer.dense_ = *std::move(dense);
    auto scores = scorer.Score(scorer.dense_.states);
    if (!scores.ok()) return scores.status();
    scorer.dense_scores_ = *std::move(scores);
    return scorer;
  }

  absl::StatusOr<TokenScores> Score(Selector* selector, const SparseRunOptions& options) const {
    auto states = RunSparse(model_, dense_, selector, options);
    if (!states.ok()) return states.status();
    return Score(*states);
  }

  PerplexityRow Row(const TokenScores& scores, double oracle_b) const {
    PerplexityRow row;
    row.text = sequence_.text;
    row.kind = sequence_.kind;
    row.num_scored = static_cast<int64_t>(scores.log_prob.size());
    row.dense = Perplexity(dense_scores_.log_prob);
    row.oracle_b = oracle_b;
    row.value = Perplexity(scores.log_prob);
    for (size_t i = 0; i < scores.log_prob.size(); ++i) {
      row.agreement += scores.greedy[i] == dense_scores_.greedy[i];
      row.log_prob_gap += std::abs(scores.log_prob[i] - dense_scores_.log_prob[i]);
    }
    row.agreement /= static_cast<double>(row.num_scored);
    row.log_prob_gap /= static_cast<double>(row.num_scored);
    return row;
  }

 private:
  SequenceScorer(const SequenceModel& model, const ScoredSequence& sequence) : model_(model), sequence_(sequence) {}

  // states of the tokens [P, T)
  absl::StatusOr<TokenScores> Score(const at::Tensor& states) const {
    const int64_t first = sequence_.first_query;
    const auto targets = absl::MakeConstSpan(sequence_.token_ids).subspan(first + 1);
    return ScoreTokens(model_, states.narrow(0, first - sequence_.dense_tokens, static_cast<int64_t>(targets.size())),
                       targets);
  }

  const SequenceModel& model_;
  const ScoredSequence& sequence_;
  DenseRun dense_;
  TokenScores dense_scores_;
};

}  // namespace

absl::StatusOr<std::vector<PerplexityRow>> MeasurePerplexity(const SequenceModel& model,
                                                             absl::Span<const ScoredSequence> sequences,
                                                             absl::Span<Selector* const> selectors, Selector* oracle_b,
                                                             const PerplexityOptions& options,
                                                             const ProgressFunction& progress) {
  if (auto status = Check(sequences, options); !status.ok()) return status;
  // The oracle goes first: every row of its budget names it.
  std::vector<Selector*> runs;
  if (oracle_b != nullptr) runs.push_back(oracle_b);
  for (Selector* selector : selectors) {
    if (selector != oracle_b) runs.push_back(selector);
  }
  EvaluationProgress done;
  done.total = static_cast<int64_t>(sequences.size() * (1 + options.budgets.size() * runs.size()));
  const auto step = [&](std::string what) {
    ++done.done;
    done.what = absl::StrCat("perplexity: ", what);
    if (progress) progress(done);
  };

  std::vector<PerplexityRow> rows;
  for (const ScoredSequence& sequence : sequences) {
    const std::string name = absl::StrCat(sequence.text, " ", sequence.kind);
    auto scorer = SequenceScorer::Create(model, sequence);
    if (!scorer.ok()) return scorer.status();
    step(absl::StrCat(name, ", dense"));
    for (const double budget : options.budgets) {
      SparseRunOptions run = options.run;
      run.budget.ratio = budget;
      double oracle_value = 0;
      for (Selector* selector : runs) {
        auto scores = scorer->Score(selector, run);
        if (!scores.ok()) return scores.status();
        if (selector == oracle_b) oracle_value = Perplexity(scores->log_prob);
        step(absl::StrCat(name, ", ", selector->name(), ", ", 100 * budget, "%"));
        if (std::find(selectors.begin(), selectors.end(), selector) == selectors.end()) continue;
        PerplexityRow row = scorer->Row(*scores, oracle_value);
        row.selector = selector->name();
        row.budget = budget;
        rows.push_back(std::move(row));
      }
    }
  }
  return rows;
}

}  // namespace spotlight::training
