#include "server/flags.h"

#include <cmath>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "command_line/flag_parser.h"
#include "server/histogram_buckets.h"
#include "server/security_flags.h"
#include "server/tracing_flags.h"

// Defaults come from the structs that the flags fill.
namespace {
const spotlight::engine::QueueOptions kQueue;
const spotlight::engine::SchedulerOptions kScheduler;
const spotlight::engine::RetrievalOptions kRetrieval;
const spotlight::engine::QualityOptions kQuality;
constexpr int kMaxGapMs = 1000000, kMaxStepSeconds = 1000000;
}  // namespace

ABSL_FLAG(std::string, model, "", "Checkpoint folder: config.json, tokenizer.json, *.safetensors. Required");
ABSL_FLAG(std::string, model_name, "", "What requests call the model; empty: the folder's name");
ABSL_FLAG(std::string, random_weights, "", "Draw the weights from this seed instead of reading them; empty: read them");
ABSL_FLAG(std::string, quantization, "none",
          "Of the layers' matrices, made as they are loaded; fp8: e4m3, one scale for each output");
ABSL_FLAG(std::string, dtype, "auto", "Of weights and cache; auto: bf16 where the device computes it fast, else fp32");
ABSL_FLAG(std::string, kv_cache_dtype, "auto",
          "Of keys and values in the cache; auto: as --dtype; fp8: e4m3, one scale for each token and head");
ABSL_FLAG(
    std::string, device, "auto",
    "auto: cuda:0; cpu on a machine without an NVIDIA GPU, or with CUDA_VISIBLE_DEVICES or NVIDIA_VISIBLE_DEVICES "
    "empty or none. A GPU that is there and that CUDA cannot use is an error");
ABSL_FLAG(int32_t, threads, 0, "CPU threads of the model; 0: one per core");

ABSL_FLAG(std::string, listen, "127.0.0.1:50051", "Address of the gRPC port; port 0: any free one");
ABSL_FLAG(std::string, http, "127.0.0.1:9090", "Address of /metrics, /healthz, /readyz and /debug/profile");

ABSL_FLAG(int64_t, max_tokens_in_cache, 0, "Capacity of the KV cache in tokens; 0: sized from the free memory");
ABSL_FLAG(double, cache_memory_share, 0,
          "Share of the memory that is free at start which the KV cache may take; 0: 0.25 of a CPU's, 0.9 of a GPU's");
ABSL_FLAG(int32_t, max_context, 0, "Tokens of one request, prompt and output; 0: the model's own limit");
ABSL_FLAG(int32_t, max_running, kScheduler.max_running, "Requests in one step");
ABSL_FLAG(
    int32_t, max_step_tokens, 0,
    "Tokens of one step: decoding first, the rest for chunks of prompts; 0: 8192 on a GPU, 512 on a CPU and in fp32");
ABSL_FLAG(double, max_token_gap_ms, 1e3 * kScheduler.max_token_gap_seconds,
          "While others decode, chunks of prompts are cut so that the step is predicted to take no longer, an aim and "
          "not a bound; 0: three times a step that only decodes");
ABSL_FLAG(bool, prefix_cache, kScheduler.prefix_cache,
          "Keep the pages of prompts and dense answers for later prompts that begin the same, until they are needed");
ABSL_FLAG(int32_t, max_waiting_requests, kQueue.max_waiting_requests, "Requests that may wait; more are refused");
ABSL_FLAG(int64_t, max_waiting_tokens, kQueue.max_waiting_tokens, "Their prompt tokens, together");

ABSL_FLAG(
    std::string, hash, "auto",
    "Hash weights; auto: search the model's folder, --hash-folders, those that come with this program, and "
    "~/.cache/spotlight/hashes for this model's; none: serve dense; train: search, and where there are none train "
    "them on this text (files or folders), and keep them in the model's folder or in ~/.cache/spotlight/hashes");
ABSL_FLAG(std::string, hash_folders, "", "Comma-separated folders that --hash=auto searches after the model's own");
ABSL_FLAG(bool, allow_untrained_hash, false, "Load a hash file that was never trained: its answers are meaningless");
ABSL_FLAG(double, budget, kRetrieval.budget.ratio, "Share of the context that a token attends to, above 0 and up to 1");
ABSL_FLAG(std::string, sparse_min_context, "auto",
          "Contexts below this many tokens are dense, unless a request asks for sparse; auto: 8192 on a GPU, 4096 on a "
          "CPU");
ABSL_FLAG(std::string, prefilter, "auto",
          "Score in two passes, the first over 32 bits; auto: on a CPU, where the hash was trained for it");

ABSL_FLAG(int32_t, quality_sample_every, kQuality.sample_every,
          "One sparse step in this many measures one request in one layer against exact attention; 0: none");
ABSL_FLAG(double, quality_floor, kQuality.floor,
          "Guardrail: a sample with less attention mass than this, 0 to 1, is low; 0: off");
ABSL_FLAG(int32_t, quality_low_samples, kQuality.low_samples,
          "Low samples of a request, one after another, until it falls back");
ABSL_FLAG(std::string, quality_fallback, "dense",
          "To what, to the request's end; budget: 4 times its budget, at most 0.25, and dense where that is low, too");

ABSL_FLAG(std::string, histogram_buckets, "",
          "Upper bounds of histograms of /metrics in the place of their own, rising: "
          "time_to_first_token_seconds=0.5,1,2;step_seconds=0.01,0.1. A query is exact only on a bound: have your "
          "objectives among them");

ABSL_FLAG(std::string, max_step_seconds, "auto",
          "A step of the model that takes longer hangs: health goes NOT_SERVING, for the process to be replaced; 0: "
          "steps may take any time; auto: 120 on a GPU, where they take seconds at most, 0 on a CPU");
ABSL_FLAG(double, drain_seconds, 30, "Seconds that running requests get to finish after SIGTERM or SIGINT");

namespace spotlight::server {
namespace {

using command_line::FlagAction;
using command_line::FlagGroup;

const std::vector<FlagGroup>& Groups() {
  static const auto* const groups = new std::vector<FlagGroup>{
      {"Model",
       {{"model", "DIR"},
        {"model_name", "NAME"},
        {"random_weights", "SEED"},
        {"dtype", "auto|bf16|fp32"},
        {"quantization", "none|fp8"},
        {"kv_cache_dtype", "auto|fp8"},
        {"device", "auto|cpu|cuda:N"},
        {"threads", "N"}}},
      {"Network",
       {{"listen", "HOST:PORT"},
        {"http", "HOST:PORT"},
        {"max_connection_age_seconds", "S"},
        {"connection_grace_seconds", "S"},
        {"keepalive_seconds", "S"},
        {"keepalive_timeout_seconds", "S"},
        {"request_read_seconds", "S"},
        {"max_unread_seconds", "S"},
        {"load_reports", ""},
        {"reflection", "auto|on|off"},
        {"channelz", ""}}},
      {"Security",
       {{"tls_cert", "FILE"},
        {"tls_key", "FILE"},
        {"tls_client_ca", "FILE"},
        {"http_tls", ""},
        {"token_file", "FILE"},
        {"max_concurrent_per_caller", "N"},
        {"credentials_reload_seconds", "S"},
        {"share_prefix_cache", ""},
        {"allow_insecure", ""}}},
      {"Cache and scheduling",
       {{"max_tokens_in_cache", "N"},
        {"cache_memory_share", "RATIO"},
        {"max_context", "N"},
        {"max_running", "N"},
        {"max_step_tokens", "N"},
        {"max_token_gap_ms", "MS"},
        {"prefix_cache", ""},
        {"max_waiting_requests", "N"},
        {"max_waiting_tokens", "N"}}},
      {"Retrieval",
       {{"hash", "auto|none|FILE|train:TEXT"},
        {"hash_folders", "DIR,..."},
        {"allow_untrained_hash", ""},
        {"budget", "RATIO"},
        {"sparse_min_context", "auto|N"},
        {"prefilter", "auto|on|off"}}},
      {"Retrieval quality",
       {{"quality_sample_every", "N"},
        {"quality_floor", "MASS"},
        {"quality_low_samples", "N"},
        {"quality_fallback", "dense|budget"}}},
      {"Traces",
       {{"otlp_endpoint", "HOST:PORT|URL"}, {"trace_sample_ratio", "RATIO"}, {"trace_parents_per_second", "N"}}},
      {"Metrics", {{"histogram_buckets", "NAME=B,..."}}},
      {"Lifecycle", {{"max_step_seconds", "auto|S"}, {"drain_seconds", "S"}}},
  };
  return *groups;
}

absl::Status Invalid(absl::string_view flag, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", what));
}

absl::Status CheckAtLeast(absl::string_view flag, int64_t value, int64_t bound) {
  if (value >= bound) return absl::OkStatus();
  return Invalid(flag, absl::StrCat("must be at least ", bound, ", got ", value));
}

absl::Status ReadModel(engine::LoadOptions* load) {
  load->model_folder = absl::GetFlag(FLAGS_model);
  if (load->model_folder.empty()) return Invalid("model", "names the checkpoint folder to serve and must be given");
  load->model_name = absl::GetFlag(FLAGS_model_name);
  if (load->model_name.empty()) {
    std::filesystem::path folder = load->model_folder;
    if (!folder.has_filename()) folder = folder.parent_path();  // "models/llama/"
    std::error_code missing;                                    // loading says so
    load->model_name = std::filesystem::weakly_canonical(folder, missing).filename().string();
  }
  if (const std::string seed = absl::GetFlag(FLAGS_random_weights); !seed.empty()) {
    uint64_t value = 0;
    if (!absl::SimpleAtoi(seed, &value)) return Invalid("random-weights", absl::StrCat("not a seed: \"", seed, "\""));
    load->random_weights_seed = value;
  }
  const std::string dtype = absl::GetFlag(FLAGS_dtype);
  if (dtype != "auto" && dtype != "bf16" && dtype != "fp32") {
    return Invalid("dtype", absl::StrCat("must be auto, bf16 or fp32, got \"", dtype, "\""));
  }
  const std::string quantization = absl::GetFlag(FLAGS_quantization);
  const auto named = engine::QuantizationNamed(quantization);
  if (!named.has_value()) {
    return Invalid("quantization", absl::StrCat("must be none or fp8, got \"", quantization, "\""));
  }
  load->quantization = *named;
  const std::string cache = absl::GetFlag(FLAGS_kv_cache_dtype);
  const auto cache_dtype = engine::KvCacheDTypeNamed(cache);
  if (!cache_dtype.has_value()) {
    return Invalid("kv-cache-dtype", absl::StrCat("must be auto or fp8, got \"", cache, "\""));
  }
  load->kv_cache_dtype = *cache_dtype;
  load->dtype = dtype == "auto"   ? engine::DTypeChoice::kAuto
                : dtype == "bf16" ? engine::DTypeChoice::kBf16
                                  : engine::DTypeChoice::kFp32;
  load->device = absl::GetFlag(FLAGS_device);
  uint32_t index = 0;
  const bool is_cuda = load->device.rfind("cuda:", 0) == 0 && absl::SimpleAtoi(load->device.substr(5), &index);
  if (load->device != "auto" && load->device != "cpu" && !is_cuda) {
    return Invalid("device", absl::StrCat("must be auto, cpu or cuda:N, got \"", load->device, "\""));
  }
  load->num_threads = absl::GetFlag(FLAGS_threads);
  return CheckAtLeast("threads", load->num_threads, 0);
}

absl::Status ReadCapacity(engine::LoadOptions* load) {
  load->max_tokens_in_cache = absl::GetFlag(FLAGS_max_tokens_in_cache);
  load->cache_memory_share = absl::GetFlag(FLAGS_cache_memory_share);
  if (!(load->cache_memory_share >= 0 && load->cache_memory_share <= 1)) {
    return Invalid("cache-memory-share", absl::StrCat("must be in [0, 1], got ", load->cache_memory_share));
  }
  if (load->cache_memory_share > 0 && load->max_tokens_in_cache > 0) {
    return Invalid("cache-memory-share", "sizes the cache as --max-tokens-in-cache does: give one of them");
  }
  load->max_context_tokens = absl::GetFlag(FLAGS_max_context);
  load->scheduler.max_running = absl::GetFlag(FLAGS_max_running);
  load->scheduler.max_step_tokens = absl::GetFlag(FLAGS_max_step_tokens);
  const double gap_ms = absl::GetFlag(FLAGS_max_token_gap_ms);
  if (!(gap_ms >= 0 && gap_ms <= kMaxGapMs)) {
    return Invalid("max-token-gap-ms", absl::StrCat("must be in [0, ", kMaxGapMs, "], got ", gap_ms));
  }
  load->scheduler.max_token_gap_seconds = 1e-3 * gap_ms;
  if (const std::string step = absl::GetFlag(FLAGS_max_step_seconds); step != "auto") {
    double seconds = 0;
    if (!absl::SimpleAtod(step, &seconds) || !(seconds >= 0 && seconds <= kMaxStepSeconds)) {
      return Invalid("max-step-seconds",
                     absl::StrCat("must be auto or in [0, ", kMaxStepSeconds, "], got \"", step, "\""));
    }
    load->max_step_seconds = seconds;
  }
  load->scheduler.prefix_cache = absl::GetFlag(FLAGS_prefix_cache);
  load->queue.max_waiting_requests = absl::GetFlag(FLAGS_max_waiting_requests);
  load->queue.max_waiting_tokens = absl::GetFlag(FLAGS_max_waiting_tokens);
  for (const absl::Status& status :
       {CheckAtLeast("max-tokens-in-cache", load->max_tokens_in_cache, 0),
        CheckAtLeast("max-context", load->max_context_tokens, 0),
        CheckAtLeast("max-running", load->scheduler.max_running, 1),
        // Every running request decodes in every step.
        load->scheduler.max_step_tokens == 0
            ? absl::OkStatus()
            : CheckAtLeast("max-step-tokens", load->scheduler.max_step_tokens, load->scheduler.max_running),
        CheckAtLeast("max-waiting-requests", load->queue.max_waiting_requests, 1),
        CheckAtLeast("max-waiting-tokens", load->queue.max_waiting_tokens, 1)}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ReadRetrieval(engine::LoadOptions* load) {
  load->hash = absl::GetFlag(FLAGS_hash);
  if (load->hash.empty()) return Invalid("hash", "must be auto, none, a file or train:PATH, got \"\"");
  if (load->hash == "train:") return Invalid("hash", "train: needs the path of a text behind it");
  load->hash_folders = absl::StrSplit(absl::GetFlag(FLAGS_hash_folders), ',', absl::SkipEmpty());
  load->allow_untrained_hash = absl::GetFlag(FLAGS_allow_untrained_hash);
  load->retrieval.budget.ratio = absl::GetFlag(FLAGS_budget);
  if (!(load->retrieval.budget.ratio > 0 && load->retrieval.budget.ratio <= 1)) {
    return Invalid("budget", absl::StrCat("must be above 0 and at most 1, got ", load->retrieval.budget.ratio));
  }
  load->retrieval.sparse_min_context = engine::kSparseMinContextByDevice;
  if (const std::string text = absl::GetFlag(FLAGS_sparse_min_context); text != "auto") {
    int32_t tokens = 0;
    if (!absl::SimpleAtoi(text, &tokens) || tokens < 0) {
      return Invalid("sparse-min-context", absl::StrCat("must be auto or at least 0, got \"", text, "\""));
    }
    load->retrieval.sparse_min_context = tokens;
  }
  const std::string prefilter = absl::GetFlag(FLAGS_prefilter);
  if (prefilter != "auto" && prefilter != "on" && prefilter != "off") {
    return Invalid("prefilter", absl::StrCat("must be auto, on or off, got \"", prefilter, "\""));
  }
  load->prefilter = prefilter == "auto" ? engine::PrefilterChoice::kAuto
                    : prefilter == "on" ? engine::PrefilterChoice::kOn
                                        : engine::PrefilterChoice::kOff;
  return absl::OkStatus();
}

absl::Status ReadQuality(engine::QualityOptions* quality) {
  quality->sample_every = absl::GetFlag(FLAGS_quality_sample_every);
  quality->floor = absl::GetFlag(FLAGS_quality_floor);
  quality->low_samples = absl::GetFlag(FLAGS_quality_low_samples);
  if (!(quality->floor >= 0 && quality->floor <= 1)) {
    return Invalid("quality-floor", absl::StrCat("must be in [0, 1], got ", quality->floor));
  }
  if (quality->floor > 0 && quality->sample_every == 0) {
    return Invalid("quality-floor", "needs samples: --quality-sample-every is 0");
  }
  const std::string fallback = absl::GetFlag(FLAGS_quality_fallback);
  if (fallback != "dense" && fallback != "budget") {
    return Invalid("quality-fallback", absl::StrCat("must be dense or budget, got \"", fallback, "\""));
  }
  quality->fallback = fallback == "dense" ? engine::QualityFallback::kDense : engine::QualityFallback::kBudget;
  const absl::Status status = CheckAtLeast("quality-sample-every", quality->sample_every, 0);
  return status.ok() ? CheckAtLeast("quality-low-samples", quality->low_samples, 1) : status;
}

absl::Status ReadNetwork(ProgramOptions* options) {
  const auto listen = ParseListenAddress(absl::GetFlag(FLAGS_listen));
  if (!listen.ok()) return Invalid("listen", listen.status().message());
  const auto http = ParseListenAddress(absl::GetFlag(FLAGS_http));
  if (!http.ok()) return Invalid("http", http.status().message());
  options->server.listen = *listen;
  options->server.http = *http;
  if (absl::Status status = ReadSecurityFlags(&options->server); !status.ok()) return status;
  const double drain_seconds = absl::GetFlag(FLAGS_drain_seconds);
  if (!(drain_seconds >= 0) || std::isinf(drain_seconds)) {
    return Invalid("drain-seconds", absl::StrCat("must be at least 0, got ", drain_seconds));
  }
  options->drain = absl::Seconds(drain_seconds);
  auto buckets = ParseHistogramBuckets(absl::GetFlag(FLAGS_histogram_buckets));
  if (!buckets.ok()) return Invalid("histogram-buckets", buckets.status().message());
  options->server.histogram_buckets = *std::move(buckets);
  return absl::OkStatus();
}

}  // namespace

std::string HelpText() {
  return absl::StrCat(
      "spotlight-server serves a checkpoint over gRPC; each generated token attends to the cached tokens that "
      "matter.\n\n"
      "Usage: spotlight-server --model DIR [flags]\n\n",
      command_line::FormatFlags(Groups()), "\n  --help  this text        --version  the version\n");
}

absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv) {
  CommandLine line;
  const auto action = command_line::ParseFlags(Groups(), argc, argv);
  if (!action.ok()) return action.status();
  if (*action != FlagAction::kRun) {
    line.action = *action == FlagAction::kHelp ? Action::kPrintHelp : Action::kPrintVersion;
    return line;
  }
  ProgramOptions& options = line.options;
  for (const absl::Status& status :
       {ReadModel(&options.load), ReadCapacity(&options.load), ReadRetrieval(&options.load),
        ReadQuality(&options.load.quality), ReadNetwork(&options), ReadTracingFlags(&options.server.tracing)}) {
    if (!status.ok()) return status;
  }
  options.server.model_name = options.load.model_name;
  return line;
}

}  // namespace spotlight::server
