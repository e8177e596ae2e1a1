// What streaming over gRPC costs: the same requests to one engine, from this process and over the wire from another, in
// turn; the medians of tokens a second, and of the CPU time for a token of the engine's thread and of all the others of
// the server (edge; with more than one thread for the model its workers are among them, and it is left out). Beside it
// what gRPC alone takes of the CPU for as many messages, at the same pace (bare_server.h).
// bazel run //benchmarks/streams:wire_overhead [-- --model DIR --threads N]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/time/clock.h"
#include "benchmarks/streams/bare_server.h"
#include "benchmarks/streams/load_process.h"
#include "engine/load.h"
#include "grpcpp/grpcpp.h"
#include "server/server.h"
#include "version.h"

ABSL_FLAG(std::string, model, "tests/testdata/tiny-llama", "checkpoint folder");
ABSL_FLAG(int64_t, random_weights, -1, "seed of weights instead of reading them; -1: read them");
ABSL_FLAG(std::string, dtype, "bf16", "bf16 or fp32");
ABSL_FLAG(int32_t, threads, 1, "CPU threads of the model");
ABSL_FLAG(int32_t, batch_size, 32, "streams side by side");
ABSL_FLAG(int32_t, prompt_tokens, 16, "of each stream");
ABSL_FLAG(int32_t, num_tokens, 600, "tokens of each stream");
ABSL_FLAG(int32_t, rounds, 5, "of each kind, after one that is not counted");
ABSL_FLAG(std::string, commit, "unknown", "this checkout's, for the output");

namespace spotlight::benchmarks {
namespace {

// CPU time of this process's threads, in nanoseconds by id. The engine's is the one that works most.
std::map<int, int64_t> ThreadTimes() {
  std::map<int, int64_t> times;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream(task.path() / "schedstat") >> times[std::stoi(task.path().filename())];
  }
  return times;
}

struct CpuTime {
  double engine_us = 0;
  double others_us = 0;
};

CpuTime CpuSince(const std::map<int, int64_t>& before) {
  int64_t all = 0, most = 0;
  for (const auto& [thread, time] : ThreadTimes()) {
    const auto found = before.find(thread);
    const int64_t spent = time - (found == before.end() ? 0 : found->second);
    all += spent;
    most = std::max(most, spent);
  }
  return {most * 1e-3, (all - most) * 1e-3};
}

class CountingSink : public engine::ResponseSink {
 public:
  explicit CountingSink(absl::BlockingCounter* running) : running_(running) {}
  void OnPrompt(int32_t) override {}
  void OnDelta(engine::Delta) override {}
  void OnFinish(engine::Finish finish) override {
    tokens_ = finish.usage.completion_tokens;
    running_->DecrementCount();
  }
  int64_t tokens() const { return tokens_; }  // after the end

 private:
  absl::BlockingCounter* const running_;
  int64_t tokens_ = 0;
};

struct Round {
  double tokens_per_second = 0;
  double engine_us_per_token = 0;
};

Round RunOwn(engine::Engine* engine) {
  const int32_t batch_size = absl::GetFlag(FLAGS_batch_size);
  absl::BlockingCounter running(batch_size);
  std::vector<std::shared_ptr<CountingSink>> sinks;
  const auto before = ThreadTimes();
  const absl::Time start = absl::Now();
  for (int32_t i = 0; i < batch_size; ++i) {
    engine::GenerateRequest request;
    request.request_id = absl::StrCat("own-", i);
    engine::TokenPrompt prompt;
    for (int32_t j = 0; j < absl::GetFlag(FLAGS_prompt_tokens); ++j) prompt.token_ids.push_back(5 + (i * 31 + j) % 400);
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0;
    request.stopping.max_tokens = absl::GetFlag(FLAGS_num_tokens);
    request.stopping.ignore_eos = true;
    sinks.push_back(std::make_shared<CountingSink>(&running));
    if (!engine->Submit(std::move(request), sinks.back()).ok()) running.DecrementCount();
  }
  running.Wait();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  int64_t tokens = 0;
  for (const auto& sink : sinks) tokens += sink->tokens();
  return {tokens / seconds, CpuSince(before).engine_us / std::max<int64_t>(tokens, 1)};
}

// As many messages at the engine's pace, from a server that only writes.
absl::optional<double> BareCpuPerToken(BareServer* bare, LoadProcess* load, double tokens_per_second) {
  const int32_t batch_size = absl::GetFlag(FLAGS_batch_size), num_tokens = absl::GetFlag(FLAGS_num_tokens);
  const auto before = ThreadTimes();
  absl::optional<LoadRound> round;
  std::thread streams([&] {
    round = load->Run(bare->port(), batch_size, absl::GetFlag(FLAGS_prompt_tokens), num_tokens, /*vocab_size=*/100);
  });
  bare->Serve(batch_size, num_tokens, batch_size / tokens_per_second);
  streams.join();
  if (!round.has_value() || round->failed > 0) return absl::nullopt;
  return CpuSince(before).others_us / round->tokens;
}

// "AMD EPYC, 2 cores"
std::string CpuName() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (absl::StartsWith(line, "model name")) {
      return absl::StrCat(line.substr(line.find(": ") + 2), ", ", std::thread::hardware_concurrency(), " cores");
    }
  }
  return "unknown";
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int Benchmark(LoadProcess* load) {
  server::ServerOptions server_options;
  server_options.listen.port = server_options.http.port = 0;
  auto server = server::Server::Start(server_options, nullptr);
  engine::LoadOptions options;
  options.model_folder = absl::GetFlag(FLAGS_model);
  options.dtype = absl::GetFlag(FLAGS_dtype) == "fp32" ? engine::DTypeChoice::kFp32 : engine::DTypeChoice::kBf16;
  options.device = "cpu";
  if (absl::GetFlag(FLAGS_random_weights) >= 0) options.random_weights_seed = absl::GetFlag(FLAGS_random_weights);
  options.num_threads = absl::GetFlag(FLAGS_threads);
  options.scheduler.max_running = absl::GetFlag(FLAGS_batch_size);
  options.max_tokens_in_cache = int64_t{absl::GetFlag(FLAGS_batch_size)} *
                                (absl::GetFlag(FLAGS_prompt_tokens) + absl::GetFlag(FLAGS_num_tokens) + 128);
  auto loaded = server.ok() ? engine::LoadEngine(options, (*server)->stats()) : server.status();
  if (!loaded.ok()) {
    std::fprintf(stderr, "%s\n", loaded.status().ToString().c_str());
    return 1;
  }
  engine::Engine* const engine = loaded->engine.get();
  (*server)->Serve(engine, loaded->libtorch_version, absl::ZeroDuration());

  BareServer bare;
  std::vector<double> own_rate, own_cpu, wire_rate, engine_cpu, edge_cpu, client_cpu, per_message, bare_cpu;
  int exit_code = 0;
  for (int32_t i = 0; i <= absl::GetFlag(FLAGS_rounds); ++i) {
    const Round own = RunOwn(engine);
    const auto before = ThreadTimes();
    const auto wire =
        load->Run((*server)->grpc_port(), absl::GetFlag(FLAGS_batch_size), absl::GetFlag(FLAGS_prompt_tokens),
                  absl::GetFlag(FLAGS_num_tokens), engine->model().vocab_size);
    const CpuTime cpu = CpuSince(before);
    if (!wire.has_value() || wire->failed > 0 || wire->tokens == 0) {
      std::fprintf(stderr, "the streams failed: %s\n", wire.has_value() ? wire->first_failure : "their process died");
      exit_code = 1;
      break;
    }
    const auto bare_us = BareCpuPerToken(&bare, load, wire->tokens / wire->seconds);
    if (!bare_us.has_value()) {
      std::fprintf(stderr, "the bare server's streams failed\n");
      exit_code = 1;
      break;
    }
    if (i == 0) continue;
    bare_cpu.push_back(*bare_us);
    own_rate.push_back(own.tokens_per_second);
    own_cpu.push_back(own.engine_us_per_token);
    wire_rate.push_back(wire->tokens / wire->seconds);
    engine_cpu.push_back(cpu.engine_us / wire->tokens);
    edge_cpu.push_back(cpu.others_us / wire->tokens);
    client_cpu.push_back(wire->client_cpu_seconds * 1e6 / wire->tokens);
    per_message.push_back(static_cast<double>(wire->tokens) / wire->messages);
  }
  if (exit_code == 0) {
    const std::string edge =
        absl::GetFlag(FLAGS_threads) == 1 ? absl::StrFormat("\"edge_cpu_us_per_token\": %.2f, ", Median(edge_cpu)) : "";
    absl::PrintF(
        "{\"benchmark\": \"wire_overhead\", \"cpu\": \"%s\", \"version\": \"%s\", \"grpc\": \"%s\", \"libtorch\": "
        "\"%s\", "
        "\"commit\": \"%s\", \"model\": \"%s\", \"batch_size\": %d, \"threads\": %d, \"engine_tokens_per_s\": %.0f, "
        "\"wire_tokens_per_s\": %.0f, \"wire_ratio\": %.3f, \"engine_cpu_us_per_token\": %.2f, "
        "\"engine_cpu_us_per_token_over_the_wire\": %.2f, %s\"bare_grpc_cpu_us_per_token\": %.2f, "
        "\"client_cpu_us_per_token\": %.2f, \"tokens_per_message\": %.2f}\n",
        CpuName(), kVersion, grpc::Version(), loaded->libtorch_version, absl::GetFlag(FLAGS_commit),
        engine->model().name, absl::GetFlag(FLAGS_batch_size), absl::GetFlag(FLAGS_threads), Median(own_rate),
        Median(wire_rate), Median(wire_rate) / Median(own_rate), Median(own_cpu), Median(engine_cpu), edge,
        Median(bare_cpu), Median(client_cpu), Median(per_message));
  }
  (*server)->Drain(absl::Seconds(1));
  (*server)->Shutdown();
  loaded->engine.reset();
  return exit_code;
}

}  // namespace
}  // namespace spotlight::benchmarks

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("Compares an engine's tokens a second with those that come through the server.");
  absl::ParseCommandLine(argc, argv);
  spotlight::benchmarks::LoadProcess load;  // before anything has threads
  return spotlight::benchmarks::Benchmark(&load);
}
