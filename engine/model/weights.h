// A model's weights, ready to be loaded: from a checkpoint's mapped files, or drawn from a seed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"
#include "engine/model/tensor_source.h"

namespace spotlight::engine {

// Outlives whatever keeps tensors that `source` mapped.
struct ModelWeights {
  std::unique_ptr<Checkpoint> checkpoint;  // null: random weights
  std::unique_ptr<TensorSource> source;
  // See fingerprint.h. Empty for a model of so few layers that none would be hashed.
  std::string fingerprint;
};

// NOT_FOUND or INVALID_ARGUMENT from the checkpoint's files, none of which is read with `random_weights_seed`.
absl::StatusOr<std::shared_ptr<ModelWeights>> OpenModelWeights(const std::string& model_folder,
                                                               const ModelConfig& config,
                                                               absl::optional<uint64_t> random_weights_seed);

}  // namespace spotlight::engine
