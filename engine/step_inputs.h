// A step's integers on their way to the device.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/batch.h"
#include "engine/ops/attention.h"
#include "kernels/sample.h"

namespace spotlight::engine {

// The largest step.
struct StepCapacity {
  int32_t max_tokens = 1;
  int32_t max_rows = 1;
  int32_t max_pages = 1;  // of one row
};

// Engine thread only. On a GPU a step's integers are packed in pinned memory and go over in one copy, the page table in
// another. Two steps may be under way: each has pinned memory of its own.
class StepInputs {
 public:
  // What one allocates on a GPU.
  static int64_t Bytes(const StepCapacity& capacity);

  // Allocates for `capacity` on a GPU; nothing on the CPU, which reads a batch in place.
  StepInputs(const StepCapacity& capacity, at::Device device);

  // Enqueued on the current stream: the step before the one before must have ended, and `batch` must stay until this
  // one has. `sample_rows`: on a GPU, one for each sample and each scored token. On a GPU the tensors of two steps with
  // equal numbers of tokens, rows and samples lie at equal addresses, so that a captured graph may read them. INTERNAL
  // when the batch is larger than the capacity.
  absl::StatusOr<StepTensors> Copy(const Batch& batch, const std::vector<kernels::SampleRowParams>& sample_rows);

 private:
  StepTensors InPlace(const Batch& batch);

  const StepCapacity capacity_;
  const at::Device device_;
  std::vector<int32_t> token_context_;
  std::vector<int64_t> sample_index_;
  // On a GPU. A step's arrays one behind the other, then the page table of max_rows rows.
  at::Tensor integers_;    // [bytes]
  at::Tensor page_table_;  // [max_rows, max_pages] int32
  struct Pinned {
    at::Tensor integers, page_table;
  };
  Pinned pinned_[2];
  int turn_ = 0;  // which of them the next step takes
};

}  // namespace spotlight::engine
