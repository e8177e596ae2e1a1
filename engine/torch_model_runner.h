// Runs steps on LibTorch: copies a batch to the device, runs the decoder, samples. A GPU samples by itself and takes
// two steps at a time; on a CPU engine/sampler.h does it. The only catch of torch's exceptions.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
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
  bool cuda_graphs = true;  // on a GPU: replay decode steps from captured graphs
  // Of SchedulerOptions: what chunks such a step may hold; empty: none.
  std::vector<int32_t> short_chunks;
  // For measuring: prompts fill the cache with random keys, values and codes, and their first token is 0.
  bool fill_prompts = false;
  at::ScalarType dtype = at::kFloat;
  int32_t num_layers = 0, vocab_size = 0;
};

// What a runner allocates on a GPU beside its parts: a step's integers, logits, samples and captured graphs, and what
// libraries take at their first calls. 0 on the CPU. `row_bytes`: what a decode row allocates in the decoder.
int64_t TorchModelRunnerBytes(const RunnerParts& parts, int64_t row_bytes);

// On a GPU this captures the usual decode steps, which takes a second or two. Errors are the device's.
absl::StatusOr<std::unique_ptr<ModelRunner>> MakeTorchModelRunner(RunnerParts parts);

}  // namespace spotlight::engine
