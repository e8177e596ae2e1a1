// A step's integers on their way to the device.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/batch.h"
#include "engine/ops/attention.h"

namespace spotlight::engine {

// The largest step.
struct StepCapacity {
  int32_t max_tokens = 1;
  int32_t max_rows = 1;
  int32_t max_pages = 1;  // of one row
};

// Engine thread only. On a GPU a step's integers are packed in pinned memory and go over in one copy, the page table in
// another.
class StepInputs {
 public:
  // Allocates for `capacity` on a GPU; nothing on the CPU, which reads a batch in place.
  StepInputs(const StepCapacity& capacity, at::Device device);

  // Enqueued on the current stream: the step before must have ended, and `batch` must stay until this one has. On a GPU
  // the tensors of two steps with equal numbers of tokens, rows and samples lie at equal addresses, so that a captured
  // graph may read them. INTERNAL when the batch is larger than the capacity.
  absl::StatusOr<StepTensors> Copy(const Batch& batch);

 private:
  StepTensors InPlace(const Batch& batch);

  const StepCapacity capacity_;
  const at::Device device_;
  std::vector<int32_t> token_context_;
  std::vector<int64_t> sample_index_;
  // GPU. Integers by Layout, then the page table of max_rows rows.
  at::Tensor host_integers_, integers_;      // [bytes]
  at::Tensor host_page_table_, page_table_;  // [max_rows, max_pages] int32
};

}  // namespace spotlight::engine
