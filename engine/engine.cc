#include "engine/engine.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/local_engine.h"
#include "engine/quality_policy.h"
#include "engine/retrieval_policy.h"
#include "engine/scheduler.h"

namespace spotlight::engine {
namespace {

absl::Status CheckOptions(const EngineOptions& options, const ModelInfo& model) {
  if (options.queue.max_waiting_requests < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_waiting_requests: must be at least 1, got ", options.queue.max_waiting_requests));
  }
  if (options.queue.max_waiting_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_waiting_tokens: must be at least 1, got ", options.queue.max_waiting_tokens));
  }
  if (model.vocab_size < 1) {
    return absl::InvalidArgumentError(absl::StrCat("vocab_size: must be at least 1, got ", model.vocab_size));
  }
  if (model.max_context_tokens < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_context_tokens: must be at least 2, got ", model.max_context_tokens));
  }
  if (!(options.max_step_seconds >= 0 && options.max_step_seconds <= 1e6)) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_step_seconds: must be in [0, 1000000], got ", options.max_step_seconds));
  }
  return Scheduler::CheckOptions(options.scheduler);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(EngineOptions options, ModelInfo model,
                                                       std::unique_ptr<Tokenizer> tokenizer,
                                                       std::unique_ptr<ChatTemplate> chat_template,
                                                       std::unique_ptr<ModelRunner> runner, StatsObserver* observer,
                                                       const Clock* clock, std::unique_ptr<StepProfiler> profiler,
                                                       std::unique_ptr<EngineThread> thread) {
  if (runner == nullptr || clock == nullptr) {
    return absl::InvalidArgumentError("an engine needs a model runner and a clock");
  }
  const absl::Status status = CheckOptions(options, model);
  if (!status.ok()) return status;
  absl::StatusOr<RetrievalPolicy> policy = RetrievalPolicy::Create(options.retrieval, model);
  if (!policy.ok()) return policy.status();
  absl::StatusOr<QualityPolicy> quality_policy = QualityPolicy::Create(options.quality, options.retrieval, model);
  if (!quality_policy.ok()) return quality_policy.status();
  model.has_chat_template = chat_template != nullptr;
  if (thread == nullptr) thread = std::make_unique<EngineThread>();
  return std::unique_ptr<Engine>(new LocalEngine(
      std::move(options), std::move(model), *std::move(policy), *quality_policy, std::move(tokenizer),
      std::move(chat_template), std::move(runner), observer, clock, std::move(profiler), std::move(thread)));
}

}  // namespace spotlight::engine
