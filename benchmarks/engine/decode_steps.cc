// What a decode step costs through the engine, sparse and dense, by batch and context: random weights, and prompts that
// fill the cache at random in place of prefill unless told otherwise. The time is the step's, planning to the last
// delta, of the steps in which the whole batch decodes. README.md says what is switched on.
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
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "benchmarks/engine/device_name.h"
#include "benchmarks/engine/step_times.h"
#include "engine/load.h"
#include "engine/mutex.h"

ABSL_FLAG(std::string, model, "benchmarks/engine/qwen2.5-7b-shape", "folder of a config.json");
ABSL_FLAG(std::string, hash, "", "hash file for it (make_untrained_hash --random-weights 1); none: dense alone");
ABSL_FLAG(std::string, device, "auto", "cpu, cuda:N or auto");
// dense_anchor.py has the same list.
ABSL_FLAG(std::string, shapes, "1x8192,1x32768,1x131072,1x524288,1x1048448,8x8192,8x32768,8x131072,32x8192",
          "BATCHxCONTEXT, by commas");
ABSL_FLAG(std::string, modes, "sparse,dense", "of sparse, dense");
ABSL_FLAG(std::string, quantization, "none", "none or fp8");
ABSL_FLAG(std::string, kv_cache_dtype, "auto", "auto or fp8");
ABSL_FLAG(double, budget, 0.02, "share of the context");
ABSL_FLAG(int, steps, 200, "measured, after five that warm up");
ABSL_FLAG(std::string, fill_cache, "random", "random: keys, values and codes are drawn; prefill: prompts are computed");
ABSL_FLAG(bool, serving_defaults, false,
          "with the prefix cache and quality sampling as the server has them, over --quality_sample_every");
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

// Output tokens of each row. Rows are admitted one after the other: the first decodes until the last has come.
int32_t OutputTokens(const Shape& shape) {
  return absl::GetFlag(FLAGS_steps) + kWarmUp + shape.batch * (shape.context / kStepTokens + 2);
}

// Prompts of different numbers share no page.
std::vector<int32_t> PromptIds(int32_t number, int32_t tokens, int32_t vocab_size) {
  std::vector<int32_t> ids(tokens);
  for (int64_t i = 0; i < tokens; ++i) {
    ids[i] = static_cast<int32_t>((i * 7919 + number * int64_t{104729}) % vocab_size);
  }
  return ids;
}

absl::StatusOr<StepTiming> Measure(Engine* engine, StepTimes* times, const Shape& shape, bool sparse,
                                   int32_t* prompts) {
  times->Begin(shape.batch);
  std::vector<std::shared_ptr<WaitingSink>> sinks;
  for (int32_t i = 0; i < shape.batch; ++i) {
    GenerateRequest request;
    request.request_id = absl::StrCat("r", i);
    request.prompt =
        TokenPrompt{PromptIds((*prompts)++, shape.context - OutputTokens(shape), engine->model().vocab_size)};
    request.sampling.temperature = static_cast<float>(absl::GetFlag(FLAGS_temperature));
    request.sampling.top_p = static_cast<float>(absl::GetFlag(FLAGS_top_p));
    request.sampling.seed = i;
    request.stopping.max_tokens = OutputTokens(shape);
    request.stopping.ignore_eos = true;
    request.retrieval.mode = sparse ? RetrievalMode::kSparse : RetrievalMode::kDense;
    sinks.push_back(std::make_shared<WaitingSink>());
    if (auto status = engine->Submit(std::move(request), sinks.back()); !status.ok()) return status;
  }
  for (const auto& sink : sinks) {
    if (auto status = sink->Wait(); !status.ok()) return status;
  }
  return times->Timing(kWarmUp);
}

absl::StatusOr<std::vector<Shape>> ShapesFromFlag() {
  std::vector<Shape> shapes;
  for (const auto& text : absl::StrSplit(absl::GetFlag(FLAGS_shapes), ',')) {
    const std::vector<std::string> parts = absl::StrSplit(text, 'x');
    Shape shape;
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &shape.batch) || !absl::SimpleAtoi(parts[1], &shape.context)) {
      return absl::InvalidArgumentError(absl::StrCat("--shapes: ", std::string(text), " is not BATCHxCONTEXT"));
    }
    if (shape.batch < 1 || shape.context <= OutputTokens(shape)) {
      return absl::InvalidArgumentError(absl::StrCat("--shapes: ", std::string(text), " leaves no prompt before the ",
                                                     OutputTokens(shape), " tokens that --steps asks for"));
    }
    shapes.push_back(shape);
  }
  return shapes;
}

absl::StatusOr<std::vector<std::string>> ModesFromFlag() {
  std::vector<std::string> modes = absl::StrSplit(absl::GetFlag(FLAGS_modes), ',');
  for (const std::string& mode : modes) {
    if (mode != "sparse" && mode != "dense") {
      return absl::InvalidArgumentError(absl::StrCat("--modes: must be of sparse and dense, has ", mode));
    }
    if (mode == "sparse" && absl::GetFlag(FLAGS_hash) == "none") {
      return absl::InvalidArgumentError("--modes: sparse needs a hash file (--hash)");
    }
  }
  return modes;
}

absl::StatusOr<LoadOptions> OptionsFor(const std::vector<Shape>& shapes) {
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
  if (options.hash.empty()) return absl::InvalidArgumentError("--hash: names no file");
  options.allow_untrained_hash = true;
  const std::string fill_cache = absl::GetFlag(FLAGS_fill_cache);
  if (fill_cache != "random" && fill_cache != "prefill") {
    return absl::InvalidArgumentError(absl::StrCat("--fill_cache: must be random or prefill, is ", fill_cache));
  }
  options.fill_prompts = fill_cache == "random";
  options.cuda_graphs = absl::GetFlag(FLAGS_cuda_graphs);
  options.max_context_tokens = absl::GetFlag(FLAGS_max_context);
  options.retrieval.budget.ratio = absl::GetFlag(FLAGS_budget);
  options.scheduler.max_step_tokens = kStepTokens;
  options.max_warm_up_seconds = 0;  // no prompt is computed
  options.scheduler.max_running = 1;
  options.scheduler.max_token_gap_seconds = 1000;  // rows are admitted with whole prompts
  if (absl::GetFlag(FLAGS_serving_defaults)) {
    options.scheduler.max_running = SchedulerOptions().max_running;
  } else {
    options.quality.sample_every = absl::GetFlag(FLAGS_quality_sample_every);
    options.scheduler.prefix_cache = false;
  }
  for (const Shape& shape : shapes) {
    options.scheduler.max_running = std::max(options.scheduler.max_running, shape.batch);
    options.max_context_tokens = std::max(options.max_context_tokens, shape.context);
    options.max_tokens_in_cache =
        std::max(options.max_tokens_in_cache, int64_t{shape.batch} * (shape.context + kernels::kPageTokens));
  }
  options.queue.max_waiting_tokens = 2 * options.max_tokens_in_cache;
  return options;
}

void Print(const std::string& mode, const Shape& shape, const StepTiming& timing) {
  printf("%-8s %8d %9d %12.3f %10.3f %10.3f %9.1f %5d/%d", mode.c_str(), shape.batch, shape.context, timing.median_ms,
         timing.mean_ms, timing.p99_ms, 100 * timing.host_ms / timing.median_ms, timing.graphs, timing.steps + kWarmUp);
  const RetrievalSeconds& retrieval = timing.retrieval;
  if (retrieval.total > 0) {
    printf("   %.0f + %.0f + %.0f + %.0f = %.0f", 1e6 * retrieval.encode, 1e6 * retrieval.score, 1e6 * retrieval.select,
           1e6 * retrieval.attend, 1e6 * retrieval.total);
  }
  printf("\n");
  fflush(stdout);
}

std::string FieldsOf(absl::string_view prefix, const StepTiming& timing) {
  const double graph_share = static_cast<double>(timing.graphs) / (timing.steps + kWarmUp);
  return absl::StrCat(", \"", prefix, "ms\": ", timing.median_ms, ", \"", prefix, "mean_ms\": ", timing.mean_ms, ", \"",
                      prefix, "p99_ms\": ", timing.p99_ms, ", \"", prefix, "host_ms\": ", timing.host_ms, ", \"",
                      prefix, "steps\": ", timing.steps, ", \"", prefix, "graph_share\": ", graph_share);
}

absl::Status Write(const std::string& path, const LoadedEngine& loaded, const std::vector<std::string>& rows) {
  const EngineOptions& options = loaded.engine->options();
  const auto name = [](bool value) { return value ? "true" : "false"; };
  std::ofstream file(path);
  file << "{\"device\": \"" << DeviceName(loaded.engine->model().device) << "\", \"versions\": {\"libtorch\": \""
       << loaded.libtorch_version << "\"}, \"commit\": \"" << absl::GetFlag(FLAGS_commit) << "\", \"quantization\": \""
       << absl::GetFlag(FLAGS_quantization) << "\", \"kv_cache_dtype\": \"" << absl::GetFlag(FLAGS_kv_cache_dtype)
       << "\", \"budget\": " << absl::GetFlag(FLAGS_budget) << ", \"temperature\": " << absl::GetFlag(FLAGS_temperature)
       << ", \"top_p\": " << absl::GetFlag(FLAGS_top_p)
       << ", \"cuda_graphs\": " << name(absl::GetFlag(FLAGS_cuda_graphs))
       << ", \"prefix_cache\": " << name(options.scheduler.prefix_cache)
       << ", \"quality_sample_every\": " << options.quality.sample_every << ", \"fill_cache\": \""
       << absl::GetFlag(FLAGS_fill_cache) << "\", \"rows\": [\n  " << absl::StrJoin(rows, ",\n  ") << "\n]}\n"
       << std::flush;
  return file.good() ? absl::OkStatus() : absl::DataLossError(absl::StrCat(path, " could not be written"));
}

absl::Status Run() {
  const auto shapes = ShapesFromFlag();
  if (!shapes.ok()) return shapes.status();
  const auto modes = ModesFromFlag();
  if (!modes.ok()) return modes.status();
  const auto options = OptionsFor(*shapes);
  if (!options.ok()) return options.status();
  StepTimes times;
  auto loaded = LoadEngine(*options, &times);
  if (!loaded.ok()) return loaded.status();

  std::vector<std::string> rows;
  int32_t prompts = 0;
  printf("%-8s %8s %9s %12s %10s %10s %9s %8s   %s\n", "mode", "batch", "context", "ms, median", "ms, mean", "ms, p99",
         "host, %", "graphs", "us of retrieval: encode + score + select + attend = total");
  for (const Shape& shape : *shapes) {
    std::string fields = absl::StrCat("\"op\": \"decode_step", absl::GetFlag(FLAGS_serving_defaults) ? "_serving" : "",
                                      "\", \"batch\": ", shape.batch, ", \"context\": ", shape.context,
                                      ", \"hash_bits\": ", loaded->engine->model().hash.hash_bits);
    for (const std::string& mode : *modes) {
      const bool sparse = mode == "sparse";
      auto timing = Measure(loaded->engine.get(), &times, shape, sparse, &prompts);
      if (!timing.ok()) return timing.status();
      Print(mode, shape, *timing);
      absl::StrAppend(&fields, FieldsOf(sparse ? "" : "dense_", *timing));
    }
    rows.push_back(absl::StrCat("{", fields, "}"));
  }
  const std::string path = absl::GetFlag(FLAGS_json);
  return path.empty() ? absl::OkStatus() : Write(path, *loaded, rows);
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
