// The engine's facade: text or tokens in, deltas out. Owns the tokenizer, the queue, the one engine thread and the
// model runner. Knows no gRPC, no protobuf, no CUDA. The life of a request is told in engine/README.md.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/cancel_reason.h"
#include "engine/cancel_scope.h"
#include "engine/clock.h"
#include "engine/engine_thread.h"
#include "engine/model_info.h"
#include "engine/model_runner.h"
#include "engine/options.h"
#include "engine/request.h"
#include "engine/response_sink.h"
#include "engine/step_profiler.h"
#include "engine/step_stats.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"

namespace spotlight::engine {

// Thread-safe.
class Engine {
 public:
  // `tokenizer` may be null: prompts are then token ids only, and answers have no text. `chat_template` may be null:
  // chat prompts are then refused. `observer` may be null; it and `clock` outlive the engine. `profiler`
  // may be null: nobody asks for profiles. `thread` runs the steps, after what it was given before; null: a new one.
  // INVALID_ARGUMENT names the option at fault.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(EngineOptions options, ModelInfo model,
                                                        std::unique_ptr<Tokenizer> tokenizer,
                                                        std::unique_ptr<ChatTemplate> chat_template,
                                                        std::unique_ptr<ModelRunner> runner, StatsObserver* observer,
                                                        const Clock* clock = Clock::Steady(),
                                                        std::unique_ptr<StepProfiler> profiler = nullptr,
                                                        std::unique_ptr<EngineThread> thread = nullptr);
  virtual ~Engine() = default;  // cancels what still runs and joins the threads

  // Accepts a request, or says at once why not (INVALID_ARGUMENT with the field's name first, as in
  // "stopping.max_tokens: must be at least 1, got 0"; RESOURCE_EXHAUSTED: queue full; ALREADY_EXISTS;
  // FAILED_PRECONDITION: SPARSE without a hash, a chat without a template; UNAVAILABLE: draining, or stopped after a
  // device fault). After OK the sink gets OnFinish exactly once; a long prompt is encoded on another thread, so errors
  // that need its length come that way.
  virtual absl::Status Submit(GenerateRequest request, std::shared_ptr<ResponseSink> sink) = 0;

  // Ends the requests of this id that `scope` names: their pages are free within one step. NOT_FOUND when none is
  // running.
  virtual absl::Status Cancel(const std::string& request_id, CancelReason reason, const CancelScope& scope) = 0;

  // Refuses new requests from now on, waits until the running ones end or `grace` has passed, then cancels the rest
  // (UNAVAILABLE). When it returns every sink has had its OnFinish, but where a step does not end for seconds: then
  // Load() still counts them.
  virtual void Drain(absl::Duration grace) = 0;

  // INVALID_ARGUMENT "text: ..." for a prompt of more bytes than its tokens can stand for: looked at only, at once.
  virtual absl::Status CheckTextSize(const std::string& text) const = 0;
  virtual absl::StatusOr<std::vector<int32_t>> Tokenize(const Prompt& prompt) const = 0;
  virtual absl::StatusOr<std::string> Detokenize(const std::vector<int32_t>& token_ids) const = 0;
  virtual EngineLoad Load() const = 0;
  virtual const ModelInfo& model() const = 0;
  virtual const EngineOptions& options() const = 0;
};

}  // namespace spotlight::engine
