// Where a model's weights come from: a checkpoint's mapped files, or random numbers of any shape.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/checkpoint.h"

namespace spotlight::engine {

// Engine thread only.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // A new CPU tensor of `dtype`; the caller owns it. NOT_FOUND or INVALID_ARGUMENT from a checkpoint.
  virtual absl::StatusOr<at::Tensor> Load(const std::string& name, const std::vector<int64_t>& shape,
                                          at::ScalarType dtype) = 0;
  // The tensor's bytes in place, where they can stay mapped for as long as the source lives; null data otherwise.
  virtual absl::StatusOr<TensorView> Map(const std::string& name, const std::vector<int64_t>& shape) = 0;
};

// `checkpoint` outlives the source. Loaded tensors' mapped pages go back to the system.
std::unique_ptr<TensorSource> CheckpointTensors(const Checkpoint* checkpoint);
std::unique_ptr<TensorSource> RandomTensors(uint64_t seed);

}  // namespace spotlight::engine
