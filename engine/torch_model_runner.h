// Runs steps on LibTorch: copies a batch to the device, runs the decoder, samples. A GPU samples by itself and takes
// two steps at a time; on a CPU engine/sampler.h does it. What torch throws in a step becomes a status here: nothing
// that throws gets out of Launch and Wait.
#pragma once

#include <c10/cuda/CUDAStream.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/kv_cache.h"
#include "engine/model/decoder.h"
#include "engine/model_runner.h"
#include "engine/ops/spotlight_attention.h"
#include "engine/step_inputs.h"

namespace spotlight::engine {

// Everything on the device that a step needs.
struct RunnerParts {
  std::unique_ptr<Decoder> decoder;
  std::unique_ptr<KvCache> cache;
  std::unique_ptr<SpotlightAttention> attention;
  std::map<int32_t, LayerHash> hashes;
  // What the decoder's mapped weights live in; kept for as long as the runner.
  std::shared_ptr<void> weight_storage;
  at::Device device = at::kCPU;
  StepCapacity capacity;    // of one step
  int32_t max_context = 1;  // tokens of a sequence
  // On a GPU: what steps run on. None: one that the runner takes for itself.
  std::optional<c10::cuda::CUDAStream> stream;
  bool cuda_graphs = true;  // on a GPU: replay decode steps from captured graphs
  // Of SchedulerOptions: what chunks such a step may hold; empty: none.
  std::vector<int32_t> short_chunks;
  // For measuring: prompts fill the cache with random keys, values and codes, and their first token is 0.
  bool fill_prompts = false;
  at::ScalarType dtype = at::kFloat;
  int32_t num_layers = 0, vocab_size = 0;
};

// One of `device`'s that steps can run on: graphs cannot be captured on the default one. None on the CPU.
std::optional<c10::cuda::CUDAStream> StepStream(at::Device device);

// What a runner allocates on a GPU beside its parts. 0 on the CPU.
struct RunnerBytes {
  int64_t steps = 0;   // a step's integers, logits and samples
  int64_t graphs = 0;  // captured graphs, and what else comes after a warm-up (engine/warm_up.h)
};
// `row_bytes`: what a decode row allocates in the decoder.
RunnerBytes TorchModelRunnerBytes(const RunnerParts& parts, int64_t row_bytes);

// On a GPU this captures the usual decode steps, which takes a second or two; on the thread that will run the steps.
// Errors are the device's.
absl::StatusOr<std::unique_ptr<ModelRunner>> MakeTorchModelRunner(RunnerParts parts);

}  // namespace spotlight::engine
