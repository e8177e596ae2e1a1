// Host time per step with everything between a client's stream and the model in place: scheduler, batch building,
// detokeniser, gRPC streams and metrics, over a runner that only waits as long as a model would.
// bazel run //benchmarks/streams
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "engine/engine.h"
#include "proto/spotlight/v1/generation.grpc.pb.h"
#include "server/server.h"

ABSL_FLAG(std::string, tokenizer, "tests/testdata/tiny-llama/tokenizer.json", "tokenizer.json to decode with");
ABSL_FLAG(int32_t, batch_size, 32, "streams side by side");
ABSL_FLAG(int32_t, num_tokens, 1000, "tokens of each stream");
ABSL_FLAG(int32_t, model_us, 2000, "microseconds that a step of the model takes");

namespace spotlight::benchmarks {
namespace {

using Steady = std::chrono::steady_clock;

double MicrosecondsSince(Steady::time_point start) {
  return std::chrono::duration<double, std::micro>(Steady::now() - start).count();
}

class WaitingRunner : public engine::ModelRunner {
 public:
  WaitingRunner(std::vector<int32_t> text, int32_t model_us) : text_(std::move(text)), model_us_(model_us) {}

  int32_t max_in_flight() const override { return 1; }
  bool PreparesFor(const engine::Batch&) const override { return false; }
  absl::Status Launch(const engine::Batch& batch) override {
    batch_ = &batch;
    return absl::OkStatus();
  }
  absl::StatusOr<engine::StepResult> Wait() override {
    const auto start = Steady::now();
    const engine::Batch& batch = *batch_;
    engine::StepResult result;
    result.tokens.resize(batch.samples.size());
    for (size_t i = 0; i < batch.samples.size(); ++i) {
      result.tokens[i].token_id = text_[batch.samples[i].output_index % text_.size()];
    }
    std::this_thread::sleep_for(std::chrono::microseconds(model_us_));
    run_us_ = MicrosecondsSince(start);
    return result;
  }
  double run_us() const { return run_us_; }  // engine thread

 private:
  const std::vector<int32_t> text_;
  const int32_t model_us_;
  const engine::Batch* batch_ = nullptr;
  double run_us_ = 0;
};

// Takes the steps of a full batch; passes everything on to the server's metrics, as in production.
class StepRecorder : public engine::StatsObserver {
 public:
  StepRecorder(const WaitingRunner* runner, engine::StatsObserver* next, int32_t batch_size)
      : runner_(runner), next_(next), batch_size_(batch_size) {}

  void OnStep(const engine::StepStats& stats) override {
    next_->OnStep(stats);
    if (stats.num_decode_rows == batch_size_ && stats.num_prefill_tokens == 0) {
      step_us_.push_back(stats.step_seconds * 1e6 - runner_->run_us());
    }
  }
  void OnRequestEnd(const engine::RequestStats& stats) override { next_->OnRequestEnd(stats); }
  std::vector<double> step_us() const { return step_us_; }

 private:
  const WaitingRunner* const runner_;
  engine::StatsObserver* const next_;
  const int32_t batch_size_;
  std::vector<double> step_us_;
};

absl::StatusOr<std::vector<double>> Measure(const std::string& tokenizer_path, int32_t batch_size, int32_t num_tokens,
                                            int32_t model_us) {
  auto tokenizer = engine::Tokenizer::Load(tokenizer_path);
  if (!tokenizer.ok()) return tokenizer.status();
  auto text = (*tokenizer)->Encode("The quick brown fox jumps over the lazy dog; then, at 10:45, it rested. ", false);
  if (!text.ok()) return text.status();

  server::ServerOptions server_options;
  server_options.listen.port = server_options.http.port = 0;
  auto server = server::Server::Start(server_options, nullptr);
  if (!server.ok()) return server.status();

  engine::ModelInfo model;
  model.name = "benchmark";
  model.dtype = "bf16";
  model.num_layers = model.num_kv_heads = 4;
  model.num_q_heads = 28;
  model.head_dim = 128;
  model.vocab_size = (*tokenizer)->vocab_size();
  model.max_context_tokens = 1 << 16;
  engine::EngineOptions options;
  options.scheduler.max_running = batch_size;
  options.scheduler.max_step_tokens = 16 * batch_size;
  options.scheduler.num_pages = batch_size * (num_tokens / kernels::kPageTokens + 2);
  auto runner = std::make_unique<WaitingRunner>(*std::move(text), model_us);
  StepRecorder recorder(runner.get(), (*server)->stats(), batch_size);
  auto engine = engine::Engine::Create(options, model, *std::move(tokenizer), nullptr, std::move(runner), &recorder);
  if (!engine.ok()) return engine.status();
  (*server)->Serve(engine->get(), "none", absl::ZeroDuration());

  const std::string address = absl::StrCat("127.0.0.1:", (*server)->grpc_port());
  std::atomic<int32_t> failures{0};
  std::vector<std::thread> clients;
  for (int32_t i = 0; i < batch_size; ++i) {
    clients.emplace_back([&, i] {
      const auto stub = v1::Generation::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
      v1::GenerateRequest request;
      request.set_text(absl::StrCat("Stream ", i));
      request.mutable_sampling()->set_temperature(0);
      request.mutable_stopping()->set_max_tokens(num_tokens);
      grpc::ClientContext context;
      auto reader = stub->GenerateStream(&context, request);
      v1::GenerateStreamResponse message;
      while (reader->Read(&message)) {
      }
      if (!reader->Finish().ok()) ++failures;
    });
  }
  for (std::thread& client : clients) client.join();
  (*server)->Drain(absl::Seconds(10));
  (*server)->Shutdown();
  engine->reset();
  if (failures > 0) return absl::InternalError(absl::StrCat(failures.load(), " streams failed"));
  if (recorder.step_us().empty()) return absl::InternalError("no step had the whole batch");
  return recorder.step_us();
}

}  // namespace
}  // namespace spotlight::benchmarks

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("Measures what the engine and the server add to each step of the model.");
  absl::ParseCommandLine(argc, argv);
  const int32_t batch_size = absl::GetFlag(FLAGS_batch_size);
  auto steps = spotlight::benchmarks::Measure(absl::GetFlag(FLAGS_tokenizer), batch_size,
                                              absl::GetFlag(FLAGS_num_tokens), absl::GetFlag(FLAGS_model_us));
  if (!steps.ok()) {
    std::fprintf(stderr, "%s\n", steps.status().ToString().c_str());
    return 1;
  }
  std::sort(steps->begin(), steps->end());
  const double mean = std::accumulate(steps->begin(), steps->end(), 0.0) / static_cast<double>(steps->size());
  std::printf(
      "{\"benchmark\": \"stream_overhead\", \"batch_size\": %d, \"num_steps\": %zu, \"target_us\": 150, \"mean_us\": "
      "%.1f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
      batch_size, steps->size(), mean, (*steps)[steps->size() / 2], (*steps)[steps->size() * 99 / 100]);
  return 0;
}
