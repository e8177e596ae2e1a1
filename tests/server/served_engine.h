// A whole server on the loopback: the real engine over a model runner that the test controls.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "tests/server/running_server.h"
#include "tests/testing/fake_model_runner.h"
#include "tests/testing/tiny_model.h"

namespace spotlight::server {

// Tells the test when the server has passed a cancel on.
class WatchedEngine final : public engine::Engine {
 public:
  explicit WatchedEngine(std::unique_ptr<engine::Engine> engine) : engine_(std::move(engine)) {}

  // Waits for the oldest successful Cancel not yet taken.
  engine::CancelReason TakeCancel() {
    MutexLock lock(&mutex_);
    while (cancels_.empty()) changed_.Wait(&mutex_);
    const engine::CancelReason reason = cancels_.front();
    cancels_.pop_front();
    return reason;
  }

  absl::Status Submit(engine::GenerateRequest request, std::shared_ptr<engine::ResponseSink> sink) override {
    return engine_->Submit(std::move(request), std::move(sink));
  }
  absl::Status Cancel(const std::string& request_id, engine::CancelReason reason,
                      const engine::CancelScope& scope) override {
    absl::Status status = engine_->Cancel(request_id, reason, scope);
    MutexLock lock(&mutex_);
    if (status.ok()) cancels_.push_back(reason);
    changed_.NotifyAll();
    return status;
  }
  void Drain(absl::Duration grace) override { engine_->Drain(grace); }
  absl::Status CheckTextSize(const std::string& text) const override { return engine_->CheckTextSize(text); }
  absl::StatusOr<std::vector<int32_t>> Tokenize(const engine::Prompt& prompt) const override {
    return engine_->Tokenize(prompt);
  }
  absl::StatusOr<std::string> Detokenize(const std::vector<int32_t>& ids) const override {
    return engine_->Detokenize(ids);
  }
  engine::EngineLoad Load() const override { return engine_->Load(); }
  const engine::ModelInfo& model() const override { return engine_->model(); }
  const engine::EngineOptions& options() const override { return engine_->options(); }

 private:
  const std::unique_ptr<engine::Engine> engine_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<engine::CancelReason> cancels_ ABSL_GUARDED_BY(mutex_);
};

class ServedEngine : public RunningServer {
 protected:
  explicit ServedEngine(const ServerOptions& options = {}) : RunningServer(options) {
    options_.scheduler.num_pages = 64;
    options_.scheduler.max_running = 8;
    options_.scheduler.max_step_tokens = 128;
  }
  ~ServedEngine() override { server_->Shutdown(); }  // before the engine goes

  void Start() {
    auto runner = std::make_unique<engine::FakeModelRunner>(options_.scheduler.num_pages, engine::kTinyVocabSize);
    runner_ = runner.get();
    auto engine = engine::Engine::Create(options_, engine::TinyModelInfo(), engine::LoadTinyTokenizer(),
                                         engine::LoadTinyChatTemplate(), std::move(runner), server_->stats());
    ASSERT_TRUE(engine.ok()) << engine.status();
    served_ = std::make_unique<WatchedEngine>(*std::move(engine));
    server_->Serve(served_.get(), "2.11.0", absl::Seconds(1));
  }

  // A prompt of three tokens and an answer of exactly `max_tokens`.
  static v1::GenerateRequest TokensRequest(const std::string& id, int32_t max_tokens) {
    v1::GenerateRequest request;
    request.set_request_id(id);
    for (const int32_t token : {1, 2, 3}) request.mutable_token_ids()->add_ids(token);
    request.mutable_stopping()->set_max_tokens(max_tokens);
    request.mutable_stopping()->set_ignore_eos(true);
    request.set_return_token_ids(true);
    return request;
  }

  engine::EngineOptions options_;
  engine::FakeModelRunner* runner_ = nullptr;  // the engine's
  std::unique_ptr<WatchedEngine> served_;
};

}  // namespace spotlight::server
