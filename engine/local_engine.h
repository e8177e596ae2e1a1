// The engine in this process: checks and encodes requests, owns the queue, the encoder's threads and the engine thread.
#pragma once

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "engine/engine.h"
#include "engine/engine_loop.h"
#include "engine/engine_thread.h"
#include "engine/mutex.h"
#include "engine/prompt_encoder.h"
#include "engine/quality_policy.h"
#include "engine/request_queue.h"
#include "engine/retrieval_policy.h"

namespace spotlight::engine {

// Thread-safe.
class LocalEngine : public Engine {
 public:
  // Parameters as Engine::Create's, already checked; `thread` is not null.
  LocalEngine(EngineOptions options, ModelInfo model, RetrievalPolicy policy, const QualityPolicy& quality_policy,
              std::unique_ptr<Tokenizer> tokenizer, std::unique_ptr<ChatTemplate> chat_template,
              std::unique_ptr<ModelRunner> runner, StatsObserver* observer, const Clock* clock,
              std::unique_ptr<StepProfiler> profiler, std::unique_ptr<EngineThread> thread);
  ~LocalEngine() override;

  absl::Status Submit(GenerateRequest request, std::shared_ptr<ResponseSink> sink) override;
  absl::Status Cancel(const std::string& request_id, CancelReason reason, const CancelScope& scope) override;
  // Returns 5 s after the grace at the latest.
  void Drain(absl::Duration grace) override;
  absl::Status CheckTextSize(const std::string& text) const override { return encoder_.CheckTextSize(text); }
  absl::StatusOr<std::vector<int32_t>> Tokenize(const Prompt& prompt) const override;
  absl::StatusOr<std::string> Detokenize(const std::vector<int32_t>& token_ids) const override;
  EngineLoad Load() const override;
  const ModelInfo& model() const override { return model_; }
  const EngineOptions& options() const override { return options_; }

 private:
  // Gives back the place of one that was never pushed; `status`.
  absl::Status Refuse(const Submission& submission, absl::Status status);
  // Encodes the submission's prompt, checks its deadline and reserves its tokens.
  absl::Status Encode(Submission* submission);
  uint64_t DrawSeed();
  void RunLoop();
  bool RunOnce();

  const EngineOptions options_;
  const ModelInfo model_;
  const RetrievalPolicy policy_;
  const Clock* const clock_;
  const std::unique_ptr<StepProfiler> profiler_;  // may be null
  const std::unique_ptr<Tokenizer> tokenizer_;
  const std::unique_ptr<ChatTemplate> chat_template_;
  const std::unique_ptr<ModelRunner> runner_;

  RequestQueue queue_;
  EngineLoop loop_;
  PromptEncoder encoder_;
  Mutex seed_mutex_;
  std::mt19937_64 seed_source_ ABSL_GUARDED_BY(seed_mutex_);
  std::atomic<bool> draining_{false};
  std::atomic<bool> stopping_{false};
  std::unique_ptr<EngineThread> thread_;  // last: runs the loop over all of the above
};

}  // namespace spotlight::engine
