// Where a model's weights come from: a checkpoint's mapped files, or random numbers of any shape.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/checkpoint.h"

namespace spotlight::engine {

// A tensor that its source has, and the type in which the source gives its values.
struct StoredTensor {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  int64_t num_elements = 0;
  TensorView view;  // of a checkpoint

  int64_t num_bytes() const { return num_elements * static_cast<int64_t>(c10::elementSize(dtype)); }
};

// Engine thread only.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // `wanted`: the type that a source which can choose gives. NOT_FOUND or INVALID_ARGUMENT from a checkpoint.
  virtual absl::StatusOr<StoredTensor> Find(const std::string& name, const std::vector<int64_t>& shape,
                                            at::ScalarType wanted) = 0;
  // Elements [begin, end), row-major, to `out` in host memory, in tensor.dtype.
  virtual void Read(const StoredTensor& tensor, int64_t begin, int64_t end, void* out) = 0;
  // The tensor's bytes in place, where they can stay mapped for as long as the source lives; null data otherwise.
  virtual absl::StatusOr<TensorView> Map(const std::string& name, const std::vector<int64_t>& shape) = 0;
};

// `checkpoint` outlives the source. Mapped pages that were read go back to the system.
std::unique_ptr<TensorSource> CheckpointTensors(const Checkpoint* checkpoint);
std::unique_ptr<TensorSource> RandomTensors(uint64_t seed);

}  // namespace spotlight::engine
