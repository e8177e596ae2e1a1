// What prompts cost through the engine: the time to the first token by length and chunk, as a share of the device's
// matrix product rate in the same run; a prompt whose beginning the prefix cache has; and how long running streams wait
// for their tokens while a long prompt arrives. Random weights.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "benchmarks/engine/device_name.h"
#include "benchmarks/engine/prefill_operations.h"
#include "engine/device.h"
#include "engine/load.h"
#include "engine/mutex.h"
#include "engine/step_stats.h"
#include "kernels/layout.h"

ABSL_FLAG(std::string, model, "benchmarks/engine/qwen2.5-7b-shape", "folder of a config.json");
ABSL_FLAG(std::string, hash, "",
          "hash file for it (make_untrained_hash --random-weights 1); none: prompts have no codes");
ABSL_FLAG(std::string, device, "auto", "cuda:N or auto");
ABSL_FLAG(std::string, quantization, "none", "none or fp8; the operations' times are bf16's all the same");
ABSL_FLAG(std::string, kv_cache_dtype, "auto", "auto or fp8; likewise");
ABSL_FLAG(std::string, prompts, "8192,8192,32768,32768,131072,131072", "tokens, by commas, in this order");
ABSL_FLAG(std::string, chunks, "8192", "tokens of a step, by commas; the weights are drawn anew for each");
ABSL_FLAG(std::string, pasts, "0,32768,122880", "of the operations' attention, by commas; empty: no operations");
ABSL_FLAG(int, hit_tokens, 32768, "prompt that is sent twice, the second time found in the prefix cache; 0: none");
ABSL_FLAG(int, streams, 8, "running streams beside which a long prompt arrives; 0: none");
ABSL_FLAG(int, stream_tokens, 8192, "context of each");
ABSL_FLAG(int, stream_prompt, 131072, "the long prompt");
ABSL_FLAG(double, max_token_gap_ms, 0, "as the server's flag");
ABSL_FLAG(int64_t, max_tokens_in_cache, 0, "0: what the prompts need");
ABSL_FLAG(std::string, json, "", "write the figures there");
ABSL_FLAG(std::string, commit, "unknown", "goes into the JSON");

namespace spotlight::engine {
namespace {

using Clock = std::chrono::steady_clock;
constexpr uint64_t kWeightSeed = 1;
constexpr int kStreamSteps = 60;  // of the streams alone

double Percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

class StepLog : public StatsObserver {
 public:
  void OnStep(const StepStats& stats) override {
    MutexLock lock(&mutex_);
    steps_.push_back(stats);
    changed_.NotifyAll();
  }
  void OnRequestEnd(const RequestStats&) override {}
  // The steps since the last call; waits until there are `count`.
  std::vector<StepStats> Take(size_t count = 0) {
    MutexLock lock(&mutex_);
    while (steps_.size() < count) changed_.Wait(&mutex_);
    return std::exchange(steps_, {});
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<StepStats> steps_ ABSL_GUARDED_BY(mutex_);
};

class TimingSink : public ResponseSink {
 public:
  void OnPrompt(int32_t) override {}
  void OnDelta(Delta) override {
    MutexLock lock(&mutex_);
    if (first_ == Clock::time_point()) first_ = Clock::now();
    changed_.NotifyAll();
  }
  void OnFinish(Finish finish) override {
    MutexLock lock(&mutex_);
    finish_ = std::move(finish);
    done_ = true;
    changed_.NotifyAll();
  }
  void WaitForFirst() {
    MutexLock lock(&mutex_);
    while (!done_ && first_ == Clock::time_point()) changed_.Wait(&mutex_);
  }
  // Seconds from `start` to the first token.
  absl::StatusOr<double> Wait(Clock::time_point start) {
    MutexLock lock(&mutex_);
    while (!done_) changed_.Wait(&mutex_);
    if (!finish_.status.ok()) return finish_.status;
    return std::chrono::duration<double>(first_ - start).count();
  }
  int32_t cached_tokens() {
    MutexLock lock(&mutex_);
    return finish_.usage.cached_prompt_tokens;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  Clock::time_point first_ ABSL_GUARDED_BY(mutex_);
  Finish finish_ ABSL_GUARDED_BY(mutex_);
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
};

absl::StatusOr<std::vector<int64_t>> Numbers(absl::string_view flag, const std::string& text) {
  std::vector<int64_t> numbers;
  for (const auto part : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    int64_t number = 0;
    if (!absl::SimpleAtoi(part, &number) || number < 0) {
      return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", text, " is no list of numbers"));
    }
    numbers.push_back(number);
  }
  return numbers;
}

class PrefillBenchmark {
 public:
  PrefillBenchmark(const ModelConfig& config, double matmul_tflops) : config_(config), matmul_tflops_(matmul_tflops) {}

  absl::Status Load(LoadOptions options) {
    engine_.reset();
    auto loaded = LoadEngine(options, &log_);
    if (!loaded.ok()) return loaded.status();
    for (const std::string& note : loaded->notes) printf("%s\n", note.c_str());
    engine_ = std::move(loaded->engine);
    chunk_ = engine_->options().scheduler.max_step_tokens;
    longest_ = 0;
    libtorch_version_ = loaded->libtorch_version;
    return absl::OkStatus();
  }

  absl::Status RunPrompt(int64_t tokens) {
    log_.Take();
    const auto start = Clock::now();
    auto sink = Submit(tokens, static_cast<int32_t>(++prompts_), 1);
    if (!sink.ok()) return sink.status();
    auto seconds = (*sink)->Wait(start);
    if (!seconds.ok()) return seconds.status();
    double slowest = 0, in_steps = 0;
    const std::vector<StepStats> steps = log_.Take();
    for (const StepStats& step : steps) {
      slowest = std::max(slowest, step.step_seconds);
      in_steps += step.step_seconds;
    }
    const double tflops = 1e-12 * Flops(tokens) / *seconds;
    const char* const run = tokens > longest_ ? "cold" : "warm";
    longest_ = std::max(longest_, tokens);
    printf(
        "prefill  %8lld tokens, chunks of %5d, %s  %9.1f ms  %6.1f TFLOPS  %5.1f%% of a matmul  (%zu steps, %.1f ms, "
        "slowest %.1f)\n",
        static_cast<long long>(tokens), chunk_, run, 1e3 * *seconds, tflops, 100 * tflops / matmul_tflops_,
        steps.size(), 1e3 * in_steps, 1e3 * slowest);
    fflush(stdout);
    AddRow(absl::StrCat("\"op\": \"prefill\", \"prompt\": ", tokens, ", \"chunk\": ", chunk_, ", \"run\": \"", run,
                        "\", \"hash_bits\": ", HashBits(), ", \"ms\": ", 1e3 * *seconds, ", \"tflops\": ", tflops,
                        ", \"share_of_matmul\": ", tflops / matmul_tflops_));
    return absl::OkStatus();
  }

  absl::Status RunHit(int64_t tokens) {
    double seconds[2];
    int32_t cached = 0;
    ++prompts_;
    for (double& time : seconds) {
      const auto start = Clock::now();
      auto sink = Submit(tokens, static_cast<int32_t>(prompts_), 1);
      if (!sink.ok()) return sink.status();
      auto waited = (*sink)->Wait(start);
      if (!waited.ok()) return waited.status();
      time = *waited;
      cached = (*sink)->cached_tokens();
    }
    printf("hit      %8lld tokens, %d cached: cold %.1f ms, hit %.2f ms, %.2f%%\n", static_cast<long long>(tokens),
           cached, 1e3 * seconds[0], 1e3 * seconds[1], 100 * seconds[1] / seconds[0]);
    fflush(stdout);
    AddRow(absl::StrCat("\"op\": \"prefix_hit\", \"prompt\": ", tokens, ", \"cached\": ", cached, ", \"hash_bits\": ",
                        HashBits(), ", \"cold_ms\": ", 1e3 * seconds[0], ", \"ms\": ", 1e3 * seconds[1]));
    return absl::OkStatus();
  }

  absl::Status RunBesideStreams(int32_t streams, int64_t stream_tokens, int64_t tokens) {
    std::vector<std::shared_ptr<TimingSink>> sinks;
    for (int32_t i = 0; i < streams; ++i) {
      auto sink = Submit(stream_tokens, 1000 + i, static_cast<int32_t>(tokens) / 16);
      if (!sink.ok()) return sink.status();
      sinks.push_back(*sink);
    }
    for (const auto& sink : sinks) sink->WaitForFirst();
    log_.Take();
    const std::vector<double> alone = Gaps(log_.Take(kStreamSteps));
    const auto start = Clock::now();
    auto prompt = Submit(tokens, static_cast<int32_t>(++prompts_), 1);
    if (!prompt.ok()) return prompt.status();
    auto seconds = (*prompt)->Wait(start);
    if (!seconds.ok()) return seconds.status();
    const std::vector<StepStats> steps = log_.Take();
    std::vector<double> chunks, host;
    for (const StepStats& step : steps) {
      chunks.push_back(step.num_prefill_tokens);
      host.push_back(step.host_seconds);
    }
    // Where the most is to be attended to.
    const auto last = [](const std::vector<double>& values) {
      return std::vector<double>(values.end() - static_cast<int64_t>(values.size() / 10), values.end());
    };
    const std::vector<double> gaps = Gaps(steps);
    for (int32_t i = 0; i < streams; ++i) {
      engine_->Cancel(absl::StrCat("p", 1000 + i), CancelReason::kAborted, {}).IgnoreError();
    }
    for (const auto& sink : sinks) sink->Wait(start).IgnoreError();
    const double usual = Percentile(alone, 0.5), late = Percentile(gaps, 0.99);
    printf(
        "beside   %d streams of %lld tokens, a prompt of %lld: gaps %.2f ms (p50) and %.2f (p99) alone; %.2f, %.2f and "
        "%.2f (max) beside it: %.2fx; first token after %.0f ms, %zu steps, chunks of %.0f (median), host %.2f ms; in "
        "the "
        "last tenth chunks of %.0f, gaps of %.2f ms, host %.2f\n",
        streams, static_cast<long long>(stream_tokens), static_cast<long long>(tokens), 1e3 * usual,
        1e3 * Percentile(alone, 0.99), 1e3 * Percentile(gaps, 0.5), 1e3 * late, 1e3 * Percentile(gaps, 1), late / usual,
        1e3 * *seconds, steps.size(), Percentile(chunks, 0.5), 1e3 * Percentile(host, 0.5),
        Percentile(last(chunks), 0.5), 1e3 * Percentile(last(gaps), 0.5), 1e3 * Percentile(last(host), 0.5));
    fflush(stdout);
    AddRow(absl::StrCat("\"op\": \"prefill_beside_streams\", \"streams\": ", streams, ", \"context\": ", stream_tokens,
                        ", \"prompt\": ", tokens, ", \"hash_bits\": ", HashBits(), ", \"p50_ms_alone\": ", 1e3 * usual,
                        ", \"p99_ms_alone\": ", 1e3 * Percentile(alone, 0.99),
                        ", \"p50_ms\": ", 1e3 * Percentile(gaps, 0.5), ", \"p99_ms\": ", 1e3 * late,
                        ", \"max_ms\": ", 1e3 * Percentile(gaps, 1), ", \"ms\": ", 1e3 * *seconds));
    return absl::OkStatus();
  }

  void AddOperations(const std::vector<OperationTime>& times) {
    for (const OperationTime& time : times) {
      const double tflops = 1e-9 * time.flops / time.ms;
      printf("layer    %-10s %6lld tokens after %7lld  %8.3f ms  %6.1f TFLOPS  %5.1f%%  (first call %.1f ms)\n",
             time.name.c_str(), static_cast<long long>(time.tokens), static_cast<long long>(time.past), time.ms, tflops,
             100 * tflops / matmul_tflops_, time.first_ms);
      AddRow(absl::StrCat("\"op\": \"layer_", time.name, "\", \"tokens\": ", time.tokens, ", \"past\": ", time.past,
                          ", \"ms\": ", time.ms, ", \"first_ms\": ", time.first_ms, ", \"tflops\": ", tflops));
    }
    fflush(stdout);
  }

  absl::Status Write(const std::string& path) const {
    std::ofstream file(path);
    file << "{\"device\": \"" << DeviceName(engine_->model().device) << "\", \"versions\": {\"libtorch\": \""
         << libtorch_version_ << "\"}, \"commit\": \"" << absl::GetFlag(FLAGS_commit) << "\", \"kv_cache_dtype\": \""
         << absl::GetFlag(FLAGS_kv_cache_dtype) << "\", \"matmul_tflops\": " << matmul_tflops_ << ", \"rows\": [\n  "
         << absl::StrJoin(rows_, ",\n  ") << "\n]}\n";
    return file.good() ? absl::OkStatus() : absl::DataLossError(absl::StrCat(path, " could not be written"));
  }

 private:
  int32_t HashBits() const { return engine_->model().hash.hash_bits; }

  void AddRow(const std::string& fields) { rows_.push_back(absl::StrCat("{", fields, "}")); }

  // 2 per parameter outside embeddings and head and token; 4 * D per query head, layer and pair of tokens.
  double Flops(double tokens) const {
    const double q_width = double{1} * config_.num_q_heads * config_.head_dim;
    const double kv_width = double{1} * config_.num_kv_heads * config_.head_dim;
    const double weights = (2 * q_width + 2 * kv_width + 3.0 * config_.intermediate_size) * config_.hidden_size;
    return config_.num_layers * (2 * weights * tokens + 4 * q_width * tokens * (tokens + 1) / 2);
  }

  static std::vector<double> Gaps(const std::vector<StepStats>& steps) {
    std::vector<double> gaps;
    for (const StepStats& step : steps) {
      gaps.insert(gaps.end(), step.inter_token_seconds.begin(), step.inter_token_seconds.end());
    }
    return gaps;
  }

  // Prompts of different ids share no page.
  absl::StatusOr<std::shared_ptr<TimingSink>> Submit(int64_t tokens, int32_t id, int32_t max_tokens) {
    GenerateRequest request;
    request.request_id = absl::StrCat("p", id);
    TokenPrompt prompt;
    prompt.token_ids.resize(tokens);
    for (int64_t i = 0; i < tokens; ++i) {
      prompt.token_ids[i] = static_cast<int32_t>((i * 7919 + id * 104729) % config_.vocab_size);
    }
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0.0f;
    request.stopping.max_tokens = max_tokens;
    request.stopping.ignore_eos = true;
    auto sink = std::make_shared<TimingSink>();
    if (auto status = engine_->Submit(std::move(request), sink); !status.ok()) return status;
    return sink;
  }

  const ModelConfig& config_;
  const double matmul_tflops_;
  StepLog log_;  // outlives the engine
  std::unique_ptr<Engine> engine_;
  std::string libtorch_version_;
  int32_t chunk_ = 0;
  int64_t longest_ = 0;  // prompt of this engine so far: shorter ones find what libraries prepare for a length
  int64_t prompts_ = 0;
  std::vector<std::string> rows_;
};

absl::StatusOr<LoadOptions> OptionsFor(const std::vector<int64_t>& prompts) {
  LoadOptions options;
  options.model_folder = absl::GetFlag(FLAGS_model);
  options.random_weights_seed = kWeightSeed;
  options.dtype = DTypeChoice::kBf16;
  const auto quantization = QuantizationNamed(absl::GetFlag(FLAGS_quantization));
  if (!quantization.has_value()) return absl::InvalidArgumentError("--quantization: must be none or fp8");
  options.quantization = *quantization;
  const auto kv_cache_dtype = KvCacheDTypeNamed(absl::GetFlag(FLAGS_kv_cache_dtype));
  if (!kv_cache_dtype.has_value()) return absl::InvalidArgumentError("--kv_cache_dtype: must be auto or fp8");
  options.kv_cache_dtype = *kv_cache_dtype;
  options.device = absl::GetFlag(FLAGS_device);
  options.hash = absl::GetFlag(FLAGS_hash);
  if (options.hash.empty()) return absl::InvalidArgumentError("--hash: names no file (none: prompts without codes)");
  options.allow_untrained_hash = true;
  options.quality.sample_every = 0;
  options.scheduler.max_token_gap_seconds = 1e-3 * absl::GetFlag(FLAGS_max_token_gap_ms);
  const int64_t streams = absl::GetFlag(FLAGS_streams), long_prompt = absl::GetFlag(FLAGS_stream_prompt);
  const int64_t answers = long_prompt / 16;
  int64_t longest = absl::GetFlag(FLAGS_hit_tokens), beside = 0;
  for (const int64_t tokens : prompts) longest = std::max(longest, tokens);
  if (streams > 0) {
    longest = std::max({longest, long_prompt, absl::GetFlag(FLAGS_stream_tokens) + answers});
    beside = streams * (absl::GetFlag(FLAGS_stream_tokens) + answers) + long_prompt;
  }
  options.scheduler.max_running = static_cast<int32_t>(std::max<int64_t>(streams + 1, 8));
  options.max_context_tokens = static_cast<int32_t>(longest + kernels::kPageTokens);
  options.max_tokens_in_cache =
      std::max(absl::GetFlag(FLAGS_max_tokens_in_cache), std::max(longest, beside) + 16 * kernels::kPageTokens);
  options.queue.max_waiting_tokens = 4 * options.max_tokens_in_cache;
  return options;
}

absl::Status Run() {
  const auto prompts = Numbers("prompts", absl::GetFlag(FLAGS_prompts));
  if (!prompts.ok()) return prompts.status();
  const auto chunks = Numbers("chunks", absl::GetFlag(FLAGS_chunks));
  if (!chunks.ok()) return chunks.status();
  const auto pasts = Numbers("pasts", absl::GetFlag(FLAGS_pasts));
  if (!pasts.ok()) return pasts.status();
  if (chunks->empty()) return absl::InvalidArgumentError("--chunks: names none");
  auto device = ResolveDevice(absl::GetFlag(FLAGS_device));
  if (!device.ok()) return device.status();
  if (!device->is_cuda()) return absl::InvalidArgumentError("--device: this measures a GPU");
  const auto config = LoadModelConfig(absl::GetFlag(FLAGS_model));
  if (!config.ok()) return config.status();
  auto options = OptionsFor(*prompts);
  if (!options.ok()) return options.status();

  const double matmul_tflops = MatmulTflops(8192, *device);
  printf("matmul of 8192^3: %.1f TFLOPS\n", matmul_tflops);
  PrefillBenchmark benchmark(*config, matmul_tflops);
  for (const int64_t chunk : *chunks) {
    if (!pasts->empty()) {
      auto times = TimePrefillOperations(*config, chunk, *pasts, *device);
      if (!times.ok()) return times.status();
      benchmark.AddOperations(*times);
    }
    options->scheduler.max_step_tokens = static_cast<int32_t>(chunk);
    if (auto status = benchmark.Load(*options); !status.ok()) return status;
    for (const int64_t tokens : *prompts) {
      if (auto status = benchmark.RunPrompt(tokens); !status.ok()) return status;
    }
  }
  if (const int hit = absl::GetFlag(FLAGS_hit_tokens); hit > 0) {
    if (auto status = benchmark.RunHit(hit); !status.ok()) return status;
  }
  if (const int streams = absl::GetFlag(FLAGS_streams); streams > 0) {
    auto status =
        benchmark.RunBesideStreams(streams, absl::GetFlag(FLAGS_stream_tokens), absl::GetFlag(FLAGS_stream_prompt));
    if (!status.ok()) return status;
  }
  const std::string path = absl::GetFlag(FLAGS_json);
  return path.empty() ? absl::OkStatus() : benchmark.Write(path);
}

}  // namespace
}  // namespace spotlight::engine

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("prefill_steps [--prompts LIST] [--chunks LIST] [--json OUT]: times prompts.");
  absl::ParseCommandLine(argc, argv);
  const absl::Status status = spotlight::engine::Run();
  if (!status.ok()) fprintf(stderr, "prefill_steps: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
