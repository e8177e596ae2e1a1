#include "training/evaluation/end_to_end.h"

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "engine/load.h"
#include "training/evaluation/copy_texts.h"
#include "training/evaluation/fidelity.h"
#include "training/evaluation/perplexity.h"
#include "training/evaluation/task_scores.h"
#include "training/evaluation/tasks/task_cells.h"

namespace spotlight::training {
namespace {

// Lengths of the needle grid, as parts of the context, and depths of its fact.
constexpr int64_t kGridParts[] = {8, 4, 2, 1};
constexpr double kGridDepths[] = {0, 0.2, 0.4, 0.6, 0.8, 1};
constexpr int32_t kGridExamples = 2, kTaskExamples = 5;
constexpr int32_t kFidelityTokens = 128;

class EndToEnd {
 public:
  EndToEnd(const EndToEndInput& input, const ProgressFunction& progress, EvaluationReport* report)
      : options_(*input.options), input_(input), progress_(progress), report_(*report) {
    std::set<std::string> seen;
    for (const TextSequence& sequence : input.sequences) {
      if (seen.insert(sequence.kind + "/" + sequence.text).second) sequences_.push_back(&sequence);
    }
    for (Selector* selector : input.selectors) {
      if (selector->name() == "oracle-b") oracle_ = selector;
    }
    run_.first_layer = input.first_layer;
  }

  absl::Status Perplexity() {
    std::vector<ScoredSequence> scored;
    absl::Status status;
    const auto keep = [&](absl::StatusOr<ScoredSequence> made) {
      status.Update(made.status());
      if (made.ok()) scored.push_back(*std::move(made));
    };
    for (const TextSequence* sequence : sequences_) {
      const std::string text = absl::StrCat(sequence->kind, "/", sequence->text);
      const auto tokens = static_cast<int64_t>(sequence->token_ids.size());
      keep(RunningText(text, sequence->token_ids, tokens));
      keep(RepeatedText(text, sequence->token_ids, tokens));
      keep(NeedlePassage(text, sequence->token_ids, tokens));
    }
    if (!status.ok()) return status;
    PerplexityOptions options;
    options.run = run_;
    options.budgets = options_.budgets;
    auto rows = MeasurePerplexity(*input_.model, scored, input_.selectors, oracle_, options, progress_);
    if (!rows.ok()) return rows.status();
    report_.perplexity = *std::move(rows);
    return absl::OkStatus();
  }

  absl::Status Check() const {
    if (options_.fidelity && input_.served_hash.empty()) {
      return absl::InvalidArgumentError("--fidelity: needs a hash that can be served, --hash FILE and selector hash");
    }
    const auto check = [](const char* flag, const absl::Status& status) {
      return status.ok() ? status
                         : absl::InvalidArgumentError(absl::StrCat(flag, ": ", status.message(), " (--context)"));
    };
    absl::Status status;
    if (options_.needle) status = check("--needle", NeedleGrid().status());
    if (status.ok() && options_.tasks) status = check("--tasks", TaskCells().status());
    return status;
  }

  absl::Status Needle() { return Tasks("--needle", NeedleGrid(), &report_.needle, &report_.needle_answers); }

  absl::Status GeneratedTasks() { return Tasks("--tasks", TaskCells(), &report_.tasks, &report_.task_answers); }

  absl::Status Fidelity() {
    if (absl::Status status = StartEngine(); !status.ok()) return status;
    std::vector<FidelityPrompt> prompts;
    for (const TextSequence* sequence : sequences_) {
      FidelityPrompt prompt{absl::StrCat(sequence->kind, "/", sequence->text), sequence->token_ids};
      prompt.token_ids.resize(prompt.token_ids.size() - kFidelityTokens);
      prompts.push_back(std::move(prompt));
    }
    FidelityOptions options;
    options.budgets = options_.budgets;
    options.num_tokens = kFidelityTokens;
    auto rows = MeasureFidelity(engine_.get(), prompts, options, progress_);
    if (!rows.ok()) return rows.status();
    report_.fidelity = *std::move(rows);
    return absl::OkStatus();
  }

 private:
  int64_t Context() const { return *std::max_element(options_.contexts.begin(), options_.contexts.end()); }
  EncodeFunction Encoder() const { return EncodeWith(*input_.model->tokenizer()); }

  absl::StatusOr<std::vector<TaskCell>> NeedleGrid() const {
    std::vector<int64_t> lengths;
    for (const int64_t part : kGridParts) lengths.push_back(Context() / part);
    return MakeNeedleGrid(lengths, kGridDepths, kGridExamples, options_.seed, Encoder());
  }

  absl::StatusOr<std::vector<TaskCell>> TaskCells() const {
    return MakeTaskCells({}, {Context()}, kTaskExamples, options_.seed, Encoder());
  }

  absl::Status Tasks(const char* flag, const absl::StatusOr<std::vector<TaskCell>>& cells,
                     std::vector<TaskLikelihoodRow>* likelihood, std::vector<TaskAnswerRow>* answers) {
    if (!cells.ok()) return cells.status();
    TaskLikelihoodOptions options;
    options.run = run_;
    options.budgets = options_.budgets;
    auto rows = MeasureTaskLikelihood(*input_.model, *cells, input_.selectors, oracle_, options, progress_);
    if (!rows.ok()) return rows.status();
    *likelihood = *std::move(rows);
    if (absl::Status status = StartEngine(); !status.ok()) return status;
    if (engine_ == nullptr) {
      report_.notes.push_back(absl::StrCat(flag,
                                           ": by likelihood alone; answers are written by the engine, and need a ",
                                           "hash that can be served: --hash FILE and selector hash"));
      return absl::OkStatus();
    }
    auto answered = MeasureTaskAnswers(engine_.get(), *cells, options_.budgets, progress_);
    if (!answered.ok()) return answered.status();
    *answers = *std::move(answered);
    return absl::OkStatus();
  }

  // Once, and where there is a hash to serve.
  absl::Status StartEngine() {
    if (engine_ != nullptr || input_.served_hash.empty()) return absl::OkStatus();
    engine::LoadOptions load;
    load.model_folder = options_.model_folder;
    load.dtype = options_.dtype;
    load.quantization = options_.quantization;
    load.kv_cache_dtype = options_.kv_cache_dtype;
    load.device = options_.device;
    load.num_threads = options_.num_threads;
    load.hash = input_.served_hash;
    load.allow_untrained_hash = true;
    load.max_tokens_in_cache = 2 * Context();
    load.scheduler.prefix_cache = false;  // an answer depends on nothing that was asked before
    auto loaded = engine::LoadEngine(load, /*observer=*/nullptr);
    if (!loaded.ok()) return loaded.status();
    engine_ = std::move(loaded->engine);
    return absl::OkStatus();
  }

  const EvaluationOptions& options_;
  const EndToEndInput& input_;
  const ProgressFunction& progress_;
  EvaluationReport& report_;
  std::vector<const TextSequence*> sequences_;  // the first of each text
  Selector* oracle_ = nullptr;
  SparseRunOptions run_;
  std::unique_ptr<engine::Engine> engine_;
};

}  // namespace

absl::Status CheckEndToEnd(const EndToEndInput& input) {
  EvaluationReport unused;
  return EndToEnd(input, nullptr, &unused).Check();
}

absl::Status MeasureEndToEnd(const EndToEndInput& input, const ProgressFunction& progress, EvaluationReport* report) {
  EndToEnd end_to_end(input, progress, report);
  const EvaluationOptions& options = *input.options;
  absl::Status status;
  if (options.perplexity) status = end_to_end.Perplexity();
  if (status.ok() && options.needle) status = end_to_end.Needle();
  if (status.ok() && options.tasks) status = end_to_end.GeneratedTasks();
  if (status.ok() && options.fidelity) status = end_to_end.Fidelity();
  return status;
}

}  // namespace spotlight::training
