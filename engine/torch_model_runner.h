// Runs steps on LibTorch: copies a batch to the device, runs the decoder, samples. The only catch of torch's
// exceptions.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/kv_cache.h"
#include "engine/model/decoder.h"
#include "engine/model_runner.h"
#include "engine/ops/spotlight_attention.h"

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
};

std::unique_ptr<ModelRunner> MakeTorchModelRunner(RunnerParts parts);

}  // namespace spotlight::engine
