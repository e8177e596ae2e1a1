#include "engine/load.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "engine/cache_size.h"
#include "engine/device.h"
#include "engine/engine_thread.h"
#include "engine/model/config.h"
#include "engine/model/hash_file.h"
#include "engine/model/hash_folders.h"
#include "engine/model/layer_hash.h"
#include "engine/model/linear.h"
#include "engine/model/tensor_list.h"
#include "engine/model/weights.h"
#include "engine/page_pool.h"
#include "engine/scheduler.h"
#include "engine/short_chunk.h"
#include "engine/torch_model_runner.h"
#include "engine/torch_recorder.h"
#include "engine/torch_status.h"
#include "engine/warm_up.h"
#include "kernels/small_linear.h"

namespace spotlight::engine {
namespace {

// An empty HashFile (no layers) when the model is to be served dense.
absl::StatusOr<HashFile> OpenHash(const LoadOptions& options, const ModelConfig& config, const std::string& fingerprint,
                                  std::vector<std::string>* notes) {
  std::string path = options.hash;
  if (path == "auto") {
    path =
        fingerprint.empty() ? "" : FindHashFile(options.model_folder, HashFolders(options.hash_folders), fingerprint);
  }
  if (path.empty() || path == "none") {
    if (options.retrieval.sparse_required) {
      return absl::FailedPreconditionError(absl::StrCat("sparse retrieval is required, but ", options.model_folder,
                                                        " has no trained hash weights (--hash)"));
    }
    notes->push_back(path == "none" ? "dense: --hash none" : "dense: no hash weights");
    return HashFile();
  }
  auto file = LoadHashFile(path, config, fingerprint, options.allow_untrained_hash);
  if (file.ok() && !file->trained) {
    notes->push_back(absl::StrCat("warning: ", path, " was never trained: what sparse retrieval finds is meaningless"));
  } else if (file.ok()) {
    notes->push_back(absl::StrCat("sparse: ", 32 * file->hash_words, "-bit hash in ", file->layers.size(), " of ",
                                  config.num_layers, " layers, from ", path));
  }
  return file;
}

std::string DTypeName(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? "bf16" : "fp32";
}

ModelInfo Describe(const LoadOptions& options, const ModelConfig& config, const HashFile& hash, at::ScalarType dtype,
                   at::Device device) {
  ModelInfo model;
  model.name = options.model_name;
  if (model.name.empty()) {
    std::error_code ignored;  // a folder that was read a moment ago
    model.name = std::filesystem::weakly_canonical(options.model_folder, ignored).filename().string();
  }
  model.architecture = config.architecture;
  model.device = device.is_cpu() ? "cpu" : absl::StrCat("cuda:", device.index());
  model.dtype = DTypeName(dtype);
  model.quantization = QuantizationName(options.quantization);
  model.kv_cache_dtype = options.kv_cache_dtype == KvCacheDType::kFp8 ? "fp8" : model.dtype;
  model.num_layers = config.num_layers;
  model.num_q_heads = config.num_q_heads;
  model.num_kv_heads = config.num_kv_heads;
  model.head_dim = config.head_dim;
  model.vocab_size = config.vocab_size;
  model.max_context_tokens = config.max_context_tokens;
  model.num_parameters = NumParameters(config);
  model.eos_token_ids = config.eos_token_ids;
  model.default_sampling = config.default_sampling;
  model.hash.present = !hash.layers.empty();
  model.hash.trained = hash.trained;
  model.hash.hash_bits = 32 * hash.hash_words;
  model.hash.num_planes = hash.num_planes;
  for (const auto& [layer, view] : hash.layers) model.hash.layers.push_back(layer);
  if (hash.file != nullptr) model.hash.path = hash.file->path();
  return model;
}

// Random weights may be served without a tokenizer, by token ids.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const LoadOptions& options, std::vector<std::string>* notes) {
  const std::string path = absl::StrCat(options.model_folder, "/tokenizer.json");
  std::error_code ignored;
  if (options.random_weights_seed.has_value() && !std::filesystem::exists(path, ignored)) {
    notes->push_back("no tokenizer.json: prompts and answers are token ids");
    return std::unique_ptr<Tokenizer>();
  }
  return Tokenizer::Load(path);
}

// What is measured of sparse retrieval, and what follows.
std::string DescribeQuality(const QualityOptions& options) {
  if (options.sample_every == 0) return "retrieval quality: not measured";
  const char* const fallback = options.fallback == QualityFallback::kDense ? "dense" : "larger budgets";
  return absl::StrCat("retrieval quality: measured in one sparse step of ", options.sample_every, ", guardrail ",
                      options.floor == 0 ? "off"
                                         : absl::StrCat("to ", fallback, " after ", options.low_samples,
                                                        " samples with attention mass under ", options.floor));
}

std::string DescribeLoading(int64_t bytes, absl::Duration time) {
  const double gigabytes = static_cast<double>(bytes) / 1e9, seconds = absl::ToDoubleSeconds(time);
  return absl::StrFormat("weights: %.2f GB in %.2f s, %.2f GB/s", gigabytes, seconds, gigabytes / seconds);
}

std::string DescribeWarmUp(const WarmUpResult& result) {
  std::string note = absl::StrFormat("warmed up in %.1f s", result.seconds);
  if (result.num_blocks_left > 0) {
    absl::StrAppend(&note, "; the first prompts that meet them wait for ", result.num_blocks_left, " of ",
                    result.num_blocks, " shapes of attention");
  }
  return note;
}

std::string DescribeFp8(at::Device device) {
  if (device.is_cpu()) return "weights: rounded to fp8 and widened again; on a CPU that saves neither memory nor time";
  return absl::StrCat("weights: fp8 but for embeddings and output head; steps of more than ",
                      kernels::kMaxSmallLinearFp8Rows, " tokens multiply in ",
                      Linear::MultipliesFp8(device) ? "fp8" : "bf16");
}

absl::Status CheckCacheDType(KvCacheDType cache, at::ScalarType dtype, at::Device device) {
  if (cache == KvCacheDType::kAuto || device.is_cpu() || dtype == at::kBFloat16) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("kv_cache_dtype: fp8 on a GPU needs bf16, not ", DTypeName(dtype)));
}

std::string DescribeFp8Cache(const KvCacheShape& shape, at::ScalarType dtype) {
  KvCacheShape plain = shape;
  plain.e4m3 = false;
  return absl::StrCat(
      "KV cache: fp8, a scale for each token and head: ", KvBytesPerPage(shape, dtype) / kernels::kPageTokens,
      " bytes a token instead of ", KvBytesPerPage(plain, dtype) / kernels::kPageTokens, ", codes not counted");
}

// Long prompts keep a GPU busy in chunks of thousands of tokens; while others decode they are cut by predicted time. In
// fp32 every prompt token takes the workspace of a decode row.
constexpr int32_t kGpuStepTokens = 8192, kStepTokens = 512;
constexpr double kGpuMaxStepSeconds = 120;
constexpr size_t kMaxEosTokens = 128;

SchedulerOptions ResolveScheduler(SchedulerOptions options, at::Device device, at::ScalarType dtype) {
  if (options.max_step_tokens == 0) {
    const bool long_chunks = device.is_cuda() && dtype != at::kFloat;
    options.max_step_tokens = std::max(options.max_running, long_chunks ? kGpuStepTokens : kStepTokens);
  }
  return options;
}

RetrievalOptions ResolveRetrieval(RetrievalOptions options, at::Device device) {
  if (options.sparse_min_context == kSparseMinContextByDevice) {
    options.sparse_min_context = device.is_cuda() ? kGpuSparseMinContext : RetrievalOptions().sparse_min_context;
  }
  return options;
}

bool UsePrefilter(PrefilterChoice choice, const HashFile& hash, at::Device device) {
  // On a GPU the second selection costs more than the shorter scan spares, at every length measured.
  const bool pays = hash.prefix_bits >= 32 && device.is_cpu();
  return choice == PrefilterChoice::kOn || (choice == PrefilterChoice::kAuto && pays);
}

absl::StatusOr<LoadedEngine> Load(const LoadOptions& options, StatsObserver* observer) {
  LoadedEngine loaded;
  loaded.libtorch_version = TORCH_VERSION;
  const c10::InferenceMode no_autograd;
  if (options.num_threads > 0) at::set_num_threads(options.num_threads);
  std::string why_cpu;
  auto device = ResolveDevice(options.device, &why_cpu);
  if (!device.ok()) return device.status();
  if (!why_cpu.empty()) loaded.notes.push_back(absl::StrCat("--device auto is the CPU: ", why_cpu));
  auto config = LoadModelConfig(options.model_folder);
  if (!config.ok()) return config.status();
  if (config->sliding_window > 0) {
    loaded.notes.push_back(
        absl::StrCat("context capped at ", config->max_context_tokens, " tokens by the model's sliding window"));
  }
  if (options.max_context_tokens > 0) {
    config->max_context_tokens = std::min(config->max_context_tokens, options.max_context_tokens);
  }
  // Until min_tokens they are banned, together with a request's stop tokens (kernels/sample.h has room for so many).
  if (config->eos_token_ids.size() > kMaxEosTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: eos_token_id: at most ", kMaxEosTokens, " ids, got ", config->eos_token_ids.size()));
  }
  const at::ScalarType dtype = ResolveDType(options.dtype, *device);
  if (auto status = CheckCacheDType(options.kv_cache_dtype, dtype, *device); !status.ok()) return status;

  auto tokenizer = LoadTokenizer(options, &loaded.notes);
  if (!tokenizer.ok()) return tokenizer.status();
  auto chat_template = ChatTemplate::Load(options.model_folder);
  if (!chat_template.ok()) return chat_template.status();
  auto weights = OpenModelWeights(options.model_folder, *config, options.random_weights_seed);
  if (!weights.ok()) return weights.status();
  auto hash = OpenHash(options, *config, (*weights)->fingerprint, &loaded.notes);
  if (!hash.ok()) return hash.status();

  const RetrievalOptions retrieval = ResolveRetrieval(options.retrieval, *device);
  if (!hash->layers.empty()) {
    loaded.notes.push_back(absl::StrCat("retrieval auto: sparse from ", retrieval.sparse_min_context,
                                        " tokens of context on, dense below"));
    loaded.notes.push_back(DescribeQuality(options.quality));
  }

  RunnerParts parts;
  parts.device = *device;
  parts.weight_storage = *weights;
  parts.stream = StepStream(*device);
  const absl::Duration start = Clock::Steady()->Now();
  int64_t weight_bytes = 0;
  const auto on_progress = [&](int64_t bytes_done, int64_t bytes_total) {
    weight_bytes = bytes_done;
    if (options.on_progress != nullptr) options.on_progress(bytes_done, bytes_total);
  };
  auto decoder = Decoder::Load(*config, (*weights)->source.get(), dtype, *device, options.quantization, on_progress);
  if (!decoder.ok()) return decoder.status();
  loaded.notes.push_back(DescribeLoading(weight_bytes, Clock::Steady()->Now() - start));
  if (options.quantization == Quantization::kFp8) loaded.notes.push_back(DescribeFp8(*device));
  parts.decoder = *std::move(decoder);
  auto hashes = LoadLayerHashes(*hash, *device);
  if (!hashes.ok()) return hashes.status();
  parts.hashes = *std::move(hashes);

  SchedulerOptions scheduler = ResolveScheduler(options.scheduler, *device, dtype);
  scheduler.num_pages = 1;  // until it is computed
  if (auto status = Scheduler::CheckOptions(scheduler); !status.ok()) return status;
  const bool e4m3_pages = options.kv_cache_dtype == KvCacheDType::kFp8;
  if (device->is_cuda()) {
    scheduler.short_chunks = ShortChunksFor(config->num_q_heads / config->num_kv_heads, e4m3_pages);
  }
  EngineOptions engine_options{options.queue, scheduler, retrieval, options.quality,
                               options.max_step_seconds.value_or(device->is_cuda() ? kGpuMaxStepSeconds : 0)};
  KvCacheShape shape{config->num_layers, config->num_kv_heads, config->head_dim, hash->hash_words, {}};
  for (const auto& [layer, view] : hash->layers) shape.hashed_layers.push_back(layer);
  shape.e4m3 = e4m3_pages;
  if (shape.e4m3) loaded.notes.push_back(DescribeFp8Cache(shape, dtype));
  const AttentionShape attention_shape{config->num_q_heads, config->num_kv_heads, config->head_dim};
  AttentionOptions attention_options;
  attention_options.sink_tokens = options.retrieval.budget.sink_tokens;
  attention_options.recent_tokens = options.retrieval.budget.recent_tokens;
  attention_options.prefilter = UsePrefilter(options.prefilter, *hash, *device);
  attention_options.measure_quality = !hash->layers.empty() && options.quality.sample_every > 0;
  attention_options.num_graph_layers = options.cuda_graphs ? config->num_layers : 0;
  attention_options.max_decode_rows = scheduler.max_running;
  attention_options.max_chunk_tokens = scheduler.max_step_tokens;
  attention_options.max_context = config->max_context_tokens;
  parts.capacity.max_rows = scheduler.max_running;
  parts.capacity.max_tokens = std::max(scheduler.max_step_tokens, scheduler.max_running);
  parts.capacity.max_pages = PagesFor(config->max_context_tokens);
  parts.max_context = config->max_context_tokens;
  parts.cuda_graphs = options.cuda_graphs;
  if (!shape.e4m3) parts.short_chunks = scheduler.short_chunks;  // chunk_attention reads no e4m3
  parts.fill_prompts = options.fill_prompts;
  parts.dtype = dtype;
  parts.num_layers = config->num_layers;
  parts.vocab_size = config->vocab_size;
  CacheSizing sizing;
  sizing.max_tokens = options.max_tokens_in_cache;
  sizing.memory_share = options.cache_memory_share;
  const auto activation_bytes = [&](int64_t tokens) {
    return Decoder::ActivationBytes(*config, tokens, dtype, *device, options.quantization);
  };
  const RunnerBytes runner_bytes = TorchModelRunnerBytes(parts, activation_bytes(2) - activation_bytes(1));
  int64_t step_bytes =
      SpotlightAttention::ScratchBytes(attention_shape, attention_options, config->num_layers, dtype, *device) +
      activation_bytes(scheduler.max_step_tokens) + runner_bytes.steps;
  const auto equip = [&](int32_t num_pages) -> absl::Status {
    auto cache = KvCache::Create(shape, num_pages, dtype, *device);
    if (!cache.ok()) return cache.status();
    parts.cache = std::make_unique<KvCache>(*std::move(cache));
    auto attention = SpotlightAttention::Create(attention_shape, attention_options, config->inv_freq,
                                                config->rope_scale, parts.cache.get(), dtype, *device);
    if (!attention.ok()) return attention.status();
    parts.attention = std::make_unique<SpotlightAttention>(*std::move(attention));
    return absl::OkStatus();
  };
  sizing.max_running = scheduler.max_running;
  sizing.max_context = config->max_context_tokens;
  const auto size_cache = [&]() -> absl::StatusOr<int32_t> {
    const auto available = AvailableBytes(*device);
    if (!available.ok()) return available.status();
    sizing.available_bytes = *available;
    sizing.scratch_bytes = step_bytes + runner_bytes.graphs;
    return NumCachePages(sizing, shape, dtype, device->type());
  };
  auto num_pages = size_cache();
  if (!num_pages.ok()) return num_pages.status();
  auto thread = std::make_unique<EngineThread>();
  if (device->is_cuda()) {
    absl::StatusOr<WarmUpResult> warmed;
    thread->Run([&] { warmed = WarmUp([&] { return equip(1); }, options.max_warm_up_seconds, &parts); });
    if (!warmed.ok()) return warmed.status();
    loaded.notes.push_back(DescribeWarmUp(*warmed));
    // The formulas know of steps that were not among these, the measurement of what the allocator makes of them.
    step_bytes = std::max(step_bytes, warmed->step_bytes);
    num_pages = size_cache();  // libraries have taken theirs
    if (!num_pages.ok()) return num_pages.status();
  }
  engine_options.scheduler.num_pages = *num_pages;
  // A request that the whole cache cannot hold is refused at the door, like one that the model cannot.
  const int64_t cache_tokens = int64_t{*num_pages} * kernels::kPageTokens;
  const bool context_is_cache = cache_tokens < config->max_context_tokens;
  if (context_is_cache) {
    loaded.notes.push_back(absl::StrCat("context capped at ", cache_tokens, " tokens by the KV cache"));
    config->max_context_tokens = attention_options.max_context = static_cast<int32_t>(cache_tokens);
  }
  if (auto status = equip(*num_pages); !status.ok()) return status;
  parts.capacity.max_pages = PagesFor(config->max_context_tokens);
  parts.max_context = config->max_context_tokens;
  absl::StatusOr<std::unique_ptr<ModelRunner>> runner;
  thread->Run([&] { runner = MakeTorchModelRunner(std::move(parts)); });
  if (!runner.ok()) return runner.status();
  auto profiler = std::make_unique<StepProfiler>(MakeTorchRecorder(*device));
  loaded.profiler = profiler.get();
  ModelInfo model = Describe(options, *config, *hash, dtype, *device);
  model.context_is_cache = context_is_cache;
  auto engine = Engine::Create(engine_options, std::move(model), *std::move(tokenizer), *std::move(chat_template),
                               *std::move(runner), observer, Clock::Steady(), std::move(profiler), std::move(thread));
  if (!engine.ok()) return engine.status();
  loaded.engine = *std::move(engine);
  return loaded;
}

}  // namespace

absl::StatusOr<LoadedEngine> LoadEngine(const LoadOptions& options, StatsObserver* observer) {
  try {
    return Load(options, observer);
  } catch (const c10::Error& error) {
    return StatusOf(error, "loading the model");
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("loading the model: ", error.what()));
  }
}

}  // namespace spotlight::engine
