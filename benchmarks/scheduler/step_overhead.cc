#include "benchmarks/scheduler/step_overhead.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/engine_loop.h"
#include "engine/page_pool.h"

namespace spotlight::benchmarks {
namespace {

using engine::Batch;
using engine::StepResult;
using Steady = std::chrono::steady_clock;

double MicrosecondsSince(Steady::time_point start) {
  return std::chrono::duration<double, std::micro>(Steady::now() - start).count();
}

// Ordinary text, token after token: what the model would have said.
class TextRunner : public engine::ModelRunner {
 public:
  explicit TextRunner(std::vector<int32_t> text) : text_(std::move(text)) {}

  int32_t max_in_flight() const override { return 1; }
  bool PreparesFor(const engine::Batch&) const override { return false; }
  absl::Status Launch(const Batch& batch) override {
    batch_ = &batch;
    return absl::OkStatus();
  }
  absl::StatusOr<StepResult> Wait() override {
    const auto start = Steady::now();
    const Batch& batch = *batch_;
    StepResult result;
    result.tokens.resize(batch.samples.size());
    for (size_t i = 0; i < batch.samples.size(); ++i) {
      result.tokens[i].token_id = text_[batch.samples[i].output_index % text_.size()];
    }
    run_us_ = MicrosecondsSince(start);
    return result;
  }

  double run_us() const { return run_us_; }

 private:
  const std::vector<int32_t> text_;
  const Batch* batch_ = nullptr;
  double run_us_ = 0;
};

class CountingSink : public engine::ResponseSink {
 public:
  void OnPrompt(int32_t) override {}
  void OnDelta(engine::Delta delta) override { num_tokens_ += static_cast<int64_t>(delta.token_ids.size()); }
  void OnFinish(engine::Finish) override {}
  int64_t num_tokens() const { return num_tokens_; }

 private:
  int64_t num_tokens_ = 0;
};

class CountingObserver : public engine::StatsObserver {
 public:
  void OnStep(const engine::StepStats& stats) override { num_generated_ += stats.num_generated_tokens; }
  void OnRequestEnd(const engine::RequestStats&) override {}

 private:
  int64_t num_generated_ = 0;
};

// The 7B shape with a hash, so that every row takes a retrieval decision.
engine::ModelInfo BenchmarkModel(const engine::Tokenizer& tokenizer) {
  engine::ModelInfo model;
  model.dtype = "bf16";
  model.num_layers = 28;
  model.num_q_heads = 28;
  model.num_kv_heads = 4;
  model.head_dim = 128;
  model.vocab_size = tokenizer.vocab_size();
  model.max_context_tokens = 1 << 20;
  model.hash.present = model.hash.trained = true;
  model.hash.hash_bits = 128;
  model.hash.layers.resize(26);
  std::iota(model.hash.layers.begin(), model.hash.layers.end(), 2);
  return model;
}

absl::Status Submit(const StepOverheadOptions& options, int32_t index, const std::shared_ptr<CountingSink>& sink,
                    engine::RequestQueue* queue) {
  auto submission = std::make_unique<engine::Submission>();
  engine::GenerateRequest& request = submission->request;
  request.request_id = absl::StrCat("stream-", index);
  request.sampling.temperature = 0.0f;
  request.sampling.top_p = request.sampling.repetition_penalty = 1.0f;
  request.sampling.top_k = 0;
  request.sampling.min_p = 0.0f;
  request.sampling.seed = index;
  for (int32_t i = 0; i < options.num_stop_strings; ++i) request.stopping.stop.push_back(absl::StrCat("\n\nStop ", i));
  submission->prompt_token_ids.assign(options.prompt_tokens, 1);
  submission->sink = sink;
  absl::Status status = queue->Reserve(engine::Reservation(request.key()));
  if (!status.ok()) return status;
  queue->Push(std::move(submission));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StepOverhead> MeasureStepOverhead(const StepOverheadOptions& options,
                                                 const engine::Tokenizer& tokenizer) {
  engine::EngineOptions engine_options;
  const int32_t tokens_per_stream = options.prompt_tokens + options.num_steps + 2;
  engine_options.scheduler.num_pages = (options.batch_size + 1) * (engine::PagesFor(tokens_per_stream) + 1);
  engine_options.scheduler.max_running = options.batch_size;
  engine_options.scheduler.max_step_tokens = std::max(options.batch_size * options.prompt_tokens, options.batch_size);
  engine_options.queue.max_waiting_requests = 2 * options.batch_size;  // one caller may fill 8/9 of them
  const engine::ModelInfo model = BenchmarkModel(tokenizer);
  const auto policy = engine::RetrievalPolicy::Create(engine_options.retrieval, model);
  if (!policy.ok()) return policy.status();
  const auto quality_policy = engine::QualityPolicy::Create(engine_options.quality, engine_options.retrieval, model);
  if (!quality_policy.ok()) return quality_policy.status();
  auto text = tokenizer.Encode("The quick brown fox jumps over the lazy dog; then, at 10:45, it rested. ", false);
  if (!text.ok()) return text.status();

  TextRunner runner(*std::move(text));
  CountingObserver observer;
  engine::RequestQueue queue(engine_options.queue);
  engine::EngineLoop loop(engine_options, model, *policy, *quality_policy, &tokenizer, &runner, &queue, &observer,
                          engine::Clock::Steady());
  const auto sink = std::make_shared<CountingSink>();
  for (int32_t i = 0; i < options.batch_size; ++i) {
    const absl::Status status = Submit(options, i, sink, &queue);
    if (!status.ok()) return status;
  }
  loop.RunOnce();  // prefill; every step from here on decodes the whole batch

  std::vector<double> step_us;
  for (int32_t step = 0; step < options.num_steps; ++step) {
    const auto start = Steady::now();
    loop.RunOnce();
    step_us.push_back(MicrosecondsSince(start) - runner.run_us());
  }
  StepOverhead overhead;
  overhead.num_tokens = sink->num_tokens();
  const int64_t expected = int64_t{options.batch_size} * (options.num_steps + 1);
  if (overhead.num_tokens != expected) {
    return absl::InternalError(absl::StrCat("expected ", expected, " tokens, got ", overhead.num_tokens));
  }
  std::sort(step_us.begin(), step_us.end());
  overhead.mean_us = std::accumulate(step_us.begin(), step_us.end(), 0.0) / static_cast<double>(step_us.size());
  overhead.p50_us = step_us[step_us.size() / 2];
  overhead.p99_us = step_us[step_us.size() * 99 / 100];
  return overhead;
}

}  // namespace spotlight::benchmarks
