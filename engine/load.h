// From a checkpoint folder to a running engine: the one place that knows which tokenizer, model and runner belong
// together.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "engine/engine.h"
#include "engine/kv_cache_dtype.h"
#include "engine/model/quantization.h"

namespace spotlight::engine {

enum class DTypeChoice : uint8_t { kAuto, kBf16, kFp32 };  // kAuto: bf16 where the device computes it fast, else fp32

enum class PrefilterChoice : uint8_t { kAuto, kOn, kOff };  // kAuto: on a CPU, for nested codes

// AUTO's crossover on a GPU. An H200 takes, of Qwen2.5-7B's shape at 8K tokens, sparse and dense, 4.21 and 4.12 ms a
// step for 1 row, 4.47 and 4.93 for 8, 6.07 and 8.65 for 32; and a row must not depend on how many others there are.
inline constexpr int32_t kGpuSparseMinContext = 8192;
inline constexpr int32_t kSparseMinContextByDevice = -1;  // that on a GPU, RetrievalOptions' own on a CPU

struct LoadOptions {
  std::string model_folder;                      // config.json, tokenizer.json, *.safetensors
  std::string model_name;                        // empty: the folder's name
  absl::optional<uint64_t> random_weights_seed;  // set: weights drawn from this seed, none read
  DTypeChoice dtype = DTypeChoice::kAuto;        // of weights and, but for kv_cache_dtype, the cache
  KvCacheDType kv_cache_dtype = KvCacheDType::kAuto;
  Quantization quantization = Quantization::kNone;  // of the layers' matrices, as they are loaded
  // "cpu", "cuda:N"; "auto": cuda:0, or cpu on a machine without an NVIDIA GPU or where the environment hides it
  std::string device = "auto";
  int32_t num_threads = 0;                // of the CPU; 0: one per core
  std::string hash = "auto";              // a hash file's path; "auto": search for one; "none": serve dense
  std::vector<std::string> hash_folders;  // searched by "auto" first, see model/hash_folders.h
  bool allow_untrained_hash = false;      // load a file marked trained = false
  PrefilterChoice prefilter = PrefilterChoice::kAuto;
  int64_t max_tokens_in_cache = 0;  // KV capacity, rounded up to pages; 0: sized from free memory
  double cache_memory_share = 0;    // of the free memory, for the KV cache; 0: 0.25 of a CPU's, 0.9 of a GPU's
  // On a GPU: after so much of the start no further shape is prepared for (engine/warm_up.h). 0: only what memory is
  // measured by runs.
  double max_warm_up_seconds = 3;
  bool cuda_graphs = true;         // on a GPU: replay decode steps from captured graphs
  int32_t max_context_tokens = 0;  // of one request, prompt and output; 0: the model's own limit
  // For measuring long contexts without hours of prefill: prompts fill the cache with random keys, values and codes.
  bool fill_prompts = false;
  QueueOptions queue;
  SchedulerOptions scheduler;  // num_pages is computed, whatever it says here
  RetrievalOptions retrieval;  // sparse_min_context may be kSparseMinContextByDevice
  QualityOptions quality;
  // EngineOptions::max_step_seconds; none: 120 on a GPU, 0 on a CPU, where a chunk far into a long prompt may take
  // longer
  absl::optional<double> max_step_seconds;
  // Told of the weights' bytes that are there and of all of them, after every 64 MB or tensor, in LoadEngine's thread.
  std::function<void(int64_t bytes_done, int64_t bytes_total)> on_progress;
};

struct LoadedEngine {
  std::unique_ptr<Engine> engine;
  StepProfiler* profiler = nullptr;  // the engine's, and gone with it; null: it has none
  std::string libtorch_version;      // "2.11.0"
  std::vector<std::string> notes;    // lines worth logging at start: "dense: no hash weights"
};

// Reads, checks and starts; blocks until requests can be served. Errors name the file or the flag's value and the
// reason. `observer` may be null and outlives the engine.
absl::StatusOr<LoadedEngine> LoadEngine(const LoadOptions& options, StatsObserver* observer);

}  // namespace spotlight::engine
