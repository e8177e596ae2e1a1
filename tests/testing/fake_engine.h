// An engine that does what the test says: it takes requests and waits for the test to speak for the model.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "engine/mutex.h"

namespace spotlight::testing {

// Thread-safe. Sinks are called under the lock, so one at a time, as the contract says.
class FakeEngine final : public engine::Engine {
 public:
  struct CancelCall {
    std::string request_id;
    engine::CancelReason reason;
  };

  FakeEngine() {
    model_.name = "fake";
    model_.architecture = "LlamaForCausalLM";
    model_.device = "cpu";
    model_.dtype = "fp32";
    model_.quantization = "fp8";
    model_.kv_cache_dtype = "fp8";
    model_.num_layers = 4;
    model_.num_q_heads = 6;
    model_.num_kv_heads = 2;
    model_.head_dim = 64;
    model_.vocab_size = 512;
    model_.max_context_tokens = 8192;
    model_.has_chat_template = true;
    model_.hash.present = true;
    model_.hash.hash_bits = 128;
    model_.hash.num_planes = 4;
    model_.hash.layers = {2, 3};
    options_.scheduler.num_pages = 100;
    load_.num_pages = 100;
    load_.num_free_pages = 75;
  }

  // ------------------------------------------------------------ what the test does

  // The oldest request not yet taken; waits for one.
  engine::GenerateRequest TakeRequest() {
    MutexLock lock(&mutex_);
    while (submitted_.empty()) changed_.Wait(&mutex_);
    engine::GenerateRequest request = std::move(submitted_.front());
    submitted_.pop_front();
    return request;
  }
  // The oldest successful Cancel not yet taken; waits for one.
  CancelCall TakeCancel() {
    MutexLock lock(&mutex_);
    while (cancels_.empty()) changed_.Wait(&mutex_);
    CancelCall call = std::move(cancels_.front());
    cancels_.pop_front();
    return call;
  }

  // These return false when the request is not running (any more).
  bool Prompt(const std::string& request_id, int32_t prompt_tokens) {
    return WithSink(request_id, [&](engine::ResponseSink* sink) { sink->OnPrompt(prompt_tokens); });
  }
  bool Send(const std::string& request_id, engine::Delta delta) {
    return WithSink(request_id, [&](engine::ResponseSink* sink) { sink->OnDelta(std::move(delta)); });
  }
  bool FinishSample(const std::string& request_id, engine::Finish finish) {
    return WithSink(request_id, [&](engine::ResponseSink* sink) { sink->OnSampleFinish(std::move(finish)); });
  }
  bool Finish(const std::string& request_id, engine::Finish finish) {
    MutexLock lock(&mutex_);
    return FinishLocked(request_id, std::move(finish));
  }
  static engine::Finish Stopped(int32_t prompt_tokens, int32_t completion_tokens) {
    engine::Finish finish;
    finish.reason = engine::FinishReason::kStop;
    finish.usage = {prompt_tokens, completion_tokens, 0};
    finish.seed = 42;
    return finish;
  }
  static engine::Finish Cancelled(engine::CancelReason reason) {
    engine::Finish finish;
    finish.usage = {5, 1, 0};
    switch (reason) {
      case engine::CancelReason::kClientGone:
        finish.reason = engine::FinishReason::kCancelled;
        finish.status = absl::CancelledError("the client is gone");
        break;
      case engine::CancelReason::kAborted:
        finish.reason = engine::FinishReason::kAborted;
        finish.status = absl::CancelledError("aborted by request");
        break;
      case engine::CancelReason::kDeadline:
        finish.reason = engine::FinishReason::kDeadline;
        finish.status = absl::DeadlineExceededError("the deadline has passed");
        break;
      case engine::CancelReason::kShutdown:
        finish.reason = engine::FinishReason::kAborted;
        finish.status = absl::UnavailableError("the server is shutting down");
        break;
    }
    return finish;
  }

  void set_submit_status(absl::Status status) {
    MutexLock lock(&mutex_);
    submit_status_ = std::move(status);
  }
  // False: Cancel only records, and the test finishes the request.
  void set_finish_on_cancel(bool finish) {
    MutexLock lock(&mutex_);
    finish_on_cancel_ = finish;
  }
  void set_load(const engine::EngineLoad& load) {
    MutexLock lock(&mutex_);
    load_ = load;
  }
  engine::ModelInfo* mutable_model() { return &model_; }          // before it is served
  engine::EngineOptions* mutable_options() { return &options_; }  // likewise
  absl::Duration drain_grace() const {
    MutexLock lock(&mutex_);
    return drain_grace_;
  }

  // ------------------------------------------------------------ engine::Engine

  ~FakeEngine() override {
    MutexLock lock(&mutex_);
    while (!running_.empty()) {
      FinishLocked(running_.begin()->first, Cancelled(engine::CancelReason::kClientGone));
    }
  }

  absl::Status Submit(engine::GenerateRequest request, std::shared_ptr<engine::ResponseSink> sink) override {
    MutexLock lock(&mutex_);
    if (!submit_status_.ok()) return submit_status_;
    if (load_.draining) return absl::UnavailableError("the server is draining");
    if (!running_.emplace(request.request_id, Running{request.caller, std::move(sink)}).second) {
      return absl::AlreadyExistsError(absl::StrCat("request_id: ", request.request_id, " is in use"));
    }
    submitted_.push_back(std::move(request));
    changed_.NotifyAll();
    return absl::OkStatus();
  }

  absl::Status Cancel(const std::string& request_id, engine::CancelReason reason,
                      const engine::CancelScope& scope) override {
    MutexLock lock(&mutex_);
    const auto found = running_.find(request_id);
    if (found == running_.end() || (scope.submission != nullptr && scope.submission != found->second.sink.get()) ||
        (scope.caller.has_value() && *scope.caller != found->second.caller)) {
      return absl::NotFoundError(absl::StrCat("request_id: ", request_id, " is not running"));
    }
    cancels_.push_back({request_id, reason});
    changed_.NotifyAll();
    if (finish_on_cancel_) FinishLocked(request_id, Cancelled(reason));
    return absl::OkStatus();
  }

  // Waits for nothing: what runs is cancelled at once.
  void Drain(absl::Duration grace) override {
    MutexLock lock(&mutex_);
    drain_grace_ = grace;
    load_.draining = true;
    while (!running_.empty()) {
      FinishLocked(running_.begin()->first, Cancelled(engine::CancelReason::kClientGone));
    }
  }

  absl::Status CheckTextSize(const std::string& text) const override {
    if (static_cast<int64_t>(text.size()) <= model_.max_context_tokens) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("text: a prompt of ", text.size(), " bytes is over the ", model_.max_context_tokens));
  }
  // One token per byte.
  absl::StatusOr<std::vector<int32_t>> Tokenize(const engine::Prompt& prompt) const override {
    std::vector<int32_t> token_ids;
    const auto add = [&token_ids](const std::string& text) {
      token_ids.insert(token_ids.end(), text.begin(), text.end());
    };
    if (const auto* text = std::get_if<engine::TextPrompt>(&prompt)) add(text->text);
    if (const auto* chat = std::get_if<engine::ChatPrompt>(&prompt)) {
      for (const engine::ChatMessage& message : chat->messages) add(message.content);
    }
    return token_ids;
  }
  absl::StatusOr<std::string> Detokenize(const std::vector<int32_t>& token_ids) const override {
    for (const int32_t id : token_ids) {
      if (id < 0 || id >= model_.vocab_size) {
        return absl::InvalidArgumentError(absl::StrCat("token_ids: must be below ", model_.vocab_size, ", got ", id));
      }
    }
    return std::string(token_ids.begin(), token_ids.end());
  }
  engine::EngineLoad Load() const override {
    MutexLock lock(&mutex_);
    engine::EngineLoad load = load_;
    load.num_running = static_cast<int32_t>(running_.size());
    return load;
  }
  const engine::ModelInfo& model() const override { return model_; }
  const engine::EngineOptions& options() const override { return options_; }

 private:
  struct Running {
    std::string caller;
    std::shared_ptr<engine::ResponseSink> sink;
  };

  template <class Call>
  bool WithSink(const std::string& request_id, const Call& call) {
    MutexLock lock(&mutex_);
    const auto found = running_.find(request_id);
    if (found == running_.end()) return false;
    call(found->second.sink.get());
    return true;
  }
  bool FinishLocked(const std::string& request_id, engine::Finish finish) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto found = running_.find(request_id);
    if (found == running_.end()) return false;
    const std::shared_ptr<engine::ResponseSink> sink = std::move(found->second.sink);
    running_.erase(found);
    sink->OnFinish(std::move(finish));
    return true;
  }

  engine::ModelInfo model_;
  engine::EngineOptions options_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::map<std::string, Running> running_ ABSL_GUARDED_BY(mutex_);
  std::deque<engine::GenerateRequest> submitted_ ABSL_GUARDED_BY(mutex_);
  std::deque<CancelCall> cancels_ ABSL_GUARDED_BY(mutex_);
  absl::Status submit_status_ ABSL_GUARDED_BY(mutex_);
  bool finish_on_cancel_ ABSL_GUARDED_BY(mutex_) = true;
  engine::EngineLoad load_ ABSL_GUARDED_BY(mutex_);
  absl::Duration drain_grace_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spotlight::testing
