// What a decode step costs through the engine, sparse and dense, by batch and context: random weights, prompts that
// fill the cache at random in place of prefill. The time is the step's, planning to the last delta, median over the
// steps in which the whole batch decodes.
#include <algorithm>
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
#include "absl/strings/str_split.h"
#include "engine/load.h"
#include "engine/mutex.h"
#include "engine/step_stats.h"

ABSL_FLAG(std::string, model, "benchmarks/engine/qwen2.5-7b-shape", "folder of a config.json");
ABSL_FLAG(std::string, hash, "", "hash file for it (make_untrained_hash --random-weights 1); needed");
ABSL_FLAG(std::string, device, "auto", "cpu, cuda:N or auto");
ABSL_FLAG(std::string, shapes, "1x8192,1x32768,1x131072,1x524288,8x32768,8x131072,32x8192", "BATCHxCONTEXT, by commas");
ABSL_FLAG(std::string, modes, "sparse,dense", "of sparse, dense");
ABSL_FLAG(std::string, quantization, "none", "none or fp8");
ABSL_FLAG(std::string, kv_cache_dtype, "auto", "auto or fp8");
ABSL_FLAG(double, budget, 0.02, "share of the context");
ABSL_FLAG(int, steps, 40, "measured, after five that warm up");
ABSL_FLAG(double, temperature, 0, "of every request; 0: greedy");
ABSL_FLAG(double, top_p, 1, "of every request");
ABSL_FLAG(int, max_context, 0, "tokens of a sequence that the engine is made for; 0: the longest of the shapes");
ABSL_FLAG(int, quality_sample_every, 0, "steps that retrieve, one of which is measured; 0: none");
ABSL_FLAG(bool, cuda_graphs, true, "replay steps from graphs");
ABSL_FLAG(std::string, json, "", "write the figures there");
ABSL_FLAG(std::string, commit, "unknown", "goes into the JSON");

namespace spotlight::engine {
namespace {

constexpr int kWarmUp = 5;
constexpr uint64_t kWeightSeed = 1;
constexpr int32_t kStepTokens = 16384;  // of a prompt that fills the cache

struct Shape {
  int32_t batch = 0, context = 0;
};

// Keeps the times of the steps in which `batch` rows decode and nothing else happens.
class StepTimes : public StatsObserver {
 public:
  void Begin(int32_t batch) {
    MutexLock lock(&mutex_);
    batch_ = batch;
    seconds_.clear();
    host_seconds_.clear();
    retrieval_.clear();
    graphs_ = 0;
  }
  void OnStep(const StepStats& stats) override {
    MutexLock lock(&mutex_);
    if (stats.num_decode_rows != batch_ || stats.num_prefill_tokens > 0) return;
    seconds_.push_back(stats.step_seconds);
    host_seconds_.push_back(stats.host_seconds);
    graphs_ += stats.cuda_graph ? 1 : 0;
    if (stats.retrieval.has_value()) retrieval_.push_back(*stats.retrieval);
  }
  void OnRequestEnd(const RequestStats&) override {}
  std::vector<double> Take(std::vector<double>* host_seconds, std::vector<RetrievalSeconds>* retrieval, int* graphs) {
    MutexLock lock(&mutex_);
    *host_seconds = host_seconds_;
    *retrieval = retrieval_;
    *graphs = graphs_;
    return seconds_;
  }

 private:
  Mutex mutex_;
  int32_t batch_ ABSL_GUARDED_BY(mutex_) = 0;
  int graphs_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<double> seconds_ ABSL_GUARDED_BY(mutex_), host_seconds_ ABSL_GUARDED_BY(mutex_);
  std::vector<RetrievalSeconds> retrieval_ ABSL_GUARDED_BY(mutex_);  // of those that were timed
};

class WaitingSink : public ResponseSink {
 public:
  void OnPrompt(int32_t) override {}
  void OnDelta(Delta) override {}
  void OnFinish(Finish finish) override {
    MutexLock lock(&mutex_);
    status_ = finish.status;
    done_ = true;
    changed_.NotifyAll();
  }
  absl::Status Wait() {
    MutexLock lock(&mutex_);
    while (!done_) changed_.Wait(&mutex_);
    return status_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
};

struct Timing {
  double median_ms = 0, p99_ms = 0;
  double host_ms = 0;          // median, of the engine's thread: not waiting for the device
  RetrievalSeconds retrieval;  // of the step whose total is the median
  int steps = 0, graphs = 0;
};

absl::StatusOr<Timing> Measure(Engine* engine, StepTimes* times, const Shape& shape, bool sparse) {
  const int steps = absl::GetFlag(FLAGS_steps) + kWarmUp;
  // Rows are admitted one after the other: the first decodes until the last has come.
  const int32_t spare = shape.batch * (shape.context / kStepTokens + 2);
  times->Begin(shape.batch);
  std::vector<std::shared_ptr<WaitingSink>> sinks;
  for (int32_t i = 0; i < shape.batch; ++i) {
    GenerateRequest request;
    request.request_id = absl::StrCat("r", i);
    TokenPrompt prompt;
    prompt.token_ids.assign(shape.context - steps - spare, 7);
    request.prompt = std::move(prompt);
    request.sampling.temperature = static_cast<float>(absl::GetFlag(FLAGS_temperature));
    request.sampling.top_p = static_cast<float>(absl::GetFlag(FLAGS_top_p));
    request.sampling.seed = i;
    request.stopping.max_tokens = steps + spare;
    request.stopping.ignore_eos = true;
    request.retrieval.mode = sparse ? RetrievalMode::kSparse : RetrievalMode::kDense;
    sinks.push_back(std::make_shared<WaitingSink>());
    if (auto status = engine->Submit(std::move(request), sinks.back()); !status.ok()) return status;
  }
  for (const auto& sink : sinks) {
    if (auto status = sink->Wait(); !status.ok()) return status;
  }
  Timing timing;
  std::vector<double> host_seconds;
  std::vector<RetrievalSeconds> retrieval;
  std::vector<double> seconds = times->Take(&host_seconds, &retrieval, &timing.graphs);
  if (seconds.size() <= kWarmUp) return absl::InternalError("the rows never decoded together");
  seconds.erase(seconds.begin(), seconds.begin() + kWarmUp);
  host_seconds.erase(host_seconds.begin(), host_seconds.begin() + kWarmUp);
  std::sort(host_seconds.begin(), host_seconds.end());
  timing.host_ms = 1e3 * host_seconds[host_seconds.size() / 2];
  std::sort(seconds.begin(), seconds.end());
  std::sort(retrieval.begin(), retrieval.end(),
            [](const RetrievalSeconds& a, const RetrievalSeconds& b) { return a.total < b.total; });
  if (!retrieval.empty()) timing.retrieval = retrieval[retrieval.size() / 2];
  timing.steps = static_cast<int>(seconds.size());
  timing.median_ms = 1e3 * seconds[seconds.size() / 2];
  timing.p99_ms = 1e3 * seconds[seconds.size() * 99 / 100];
  return timing;
}

absl::StatusOr<std::vector<Shape>> ShapesFromFlag() {
  std::vector<Shape> shapes;
  for (const auto& text : absl::StrSplit(absl::GetFlag(FLAGS_shapes), ',')) {
    const std::vector<std::string> parts = absl::StrSplit(text, 'x');
    Shape shape;
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &shape.batch) || !absl::SimpleAtoi(parts[1], &shape.context)) {
      return absl::InvalidArgumentError(absl::StrCat("--shapes: ", std::string(text), " is not BATCHxCONTEXT"));
    }
    shapes.push_back(shape);
  }
  return shapes;
}

absl::Status Run() {
  const auto shapes = ShapesFromFlag();
  if (!shapes.ok()) return shapes.status();
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
  options.allow_untrained_hash = true;
  options.fill_prompts = true;
  options.cuda_graphs = absl::GetFlag(FLAGS_cuda_graphs);
  options.quality.sample_every = absl::GetFlag(FLAGS_quality_sample_every);
  options.max_context_tokens = absl::GetFlag(FLAGS_max_context);
  options.retrieval.budget.ratio = absl::GetFlag(FLAGS_budget);
  options.scheduler.max_step_tokens = kStepTokens;
  options.scheduler.max_running = 1;
  options.scheduler.max_token_gap_seconds = 1000;  // rows are admitted with whole prompts
  options.scheduler.prefix_cache = false;          // all prompts are alike, and each row is to read pages of its own
  for (const Shape& shape : *shapes) {
    options.scheduler.max_running = std::max(options.scheduler.max_running, shape.batch);
    options.max_context_tokens = std::max(options.max_context_tokens, shape.context);
    options.max_tokens_in_cache =
        std::max(options.max_tokens_in_cache, int64_t{shape.batch} * (shape.context + kernels::kPageTokens));
  }
  options.queue.max_waiting_tokens = 2 * options.max_tokens_in_cache;
  StepTimes times;
  auto loaded = LoadEngine(options, &times);
  if (!loaded.ok()) return loaded.status();

  const std::vector<std::string> modes = absl::StrSplit(absl::GetFlag(FLAGS_modes), ',');
  std::string rows;
  printf("%-8s %8s %9s %12s %10s %9s %8s   %s\n", "mode", "batch", "context", "ms, median", "ms, p99", "host, %",
         "graphs", "us of retrieval: encode + score + select + attend = total");
  for (const Shape& shape : *shapes) {
    double ms[2] = {0, 0}, host_ms[2] = {0, 0};
    for (const std::string& mode : modes) {
      const bool sparse = mode == "sparse";
      auto timing = Measure(loaded->engine.get(), &times, shape, sparse);
      if (!timing.ok()) return timing.status();
      ms[sparse ? 0 : 1] = timing->median_ms;
      host_ms[sparse ? 0 : 1] = timing->host_ms;
      printf("%-8s %8d %9d %12.3f %10.3f %9.1f %5d/%d", mode.c_str(), shape.batch, shape.context, timing->median_ms,
             timing->p99_ms, 100 * timing->host_ms / timing->median_ms, timing->graphs, timing->steps + kWarmUp);
      const RetrievalSeconds& retrieval = timing->retrieval;
      if (sparse) {
        printf("   %.0f + %.0f + %.0f + %.0f = %.0f", 1e6 * retrieval.encode, 1e6 * retrieval.score,
               1e6 * retrieval.select, 1e6 * retrieval.attend, 1e6 * retrieval.total);
      }
      printf("\n");
      fflush(stdout);
    }
    absl::StrAppend(&rows, rows.empty() ? "" : ",\n  ", "{\"op\": \"decode_step\", \"batch\": ", shape.batch,
                    ", \"context\": ", shape.context, ", \"ms\": ", ms[0], ", \"dense_ms\": ", ms[1],
                    ", \"host_ms\": ", host_ms[0], ", \"dense_host_ms\": ", host_ms[1], "}");
  }
  if (const std::string path = absl::GetFlag(FLAGS_json); !path.empty()) {
    std::ofstream file(path);
    file << "{\"device\": \"" << loaded->engine->model().device << "\", \"versions\": {\"libtorch\": \""
         << loaded->libtorch_version << "\"}, \"commit\": \"" << absl::GetFlag(FLAGS_commit)
         << "\", \"quantization\": \"" << absl::GetFlag(FLAGS_quantization) << "\", \"kv_cache_dtype\": \""
         << absl::GetFlag(FLAGS_kv_cache_dtype) << "\", \"budget\": " << absl::GetFlag(FLAGS_budget)
         << ", \"temperature\": " << absl::GetFlag(FLAGS_temperature) << ", \"top_p\": " << absl::GetFlag(FLAGS_top_p)
         << ", \"cuda_graphs\": " << (options.cuda_graphs ? "true" : "false") << ", \"rows\": [\n  " << rows
         << "\n]}\n";
    if (!file.good()) return absl::DataLossError(absl::StrCat(path, " could not be written"));
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace spotlight::engine

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("decode_steps --hash FILE [--shapes LIST] [--json OUT]: times decode steps.");
  absl::ParseCommandLine(argc, argv);
  const absl::Status status = spotlight::engine::Run();
  if (!status.ok()) fprintf(stderr, "decode_steps: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
