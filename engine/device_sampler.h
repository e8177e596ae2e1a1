// Chooses a step's tokens on a GPU: kernels/sample.h with the memory it works on. engine/sampler.h says what is chosen.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAEvent.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/batch.h"
#include "engine/sample_slots.h"
#include "engine/step_inputs.h"
#include "kernels/sample.h"

namespace spotlight::engine {

// Engine thread only; every call under the runner's stream. c10::Error is the device's. For each step, in this order:
// Prepare, Feed, Sample for all of its rows (or SampleNothing), CopyOut, and, when two steps at most have been copied
// out and not taken, Take.
class DeviceSampler {
 public:
  // What one allocates on the device.
  static int64_t Bytes(const StepCapacity& capacity, int32_t vocab_size);

  DeviceSampler(const StepCapacity& capacity, int32_t vocab_size, at::Device device);

  // Enqueues the state of sequences that are new here. The rows of the batch's samples, then of its scored tokens;
  // valid until the next Prepare.
  absl::StatusOr<const std::vector<kernels::SampleRowParams>*> Prepare(const Batch& batch);

  // Enqueued: ids that stand for the tokens of the step before (Batch::token_ids) become those.
  absl::Status Feed(const at::Tensor& token_ids);

  // Enqueued. logits [R, vocab] in any dtype, `rows` their parameters on the device: StepTensors::sample_rows or a
  // part. Takes kMaxRows rows, or as many as a step has.
  absl::Status Sample(const at::Tensor& logits, const at::Tensor& rows);
  static constexpr int64_t kMaxRows = 64;

  // Enqueued, in place of Sample: token 0 for the step's `count` rows.
  void SampleNothing(int64_t count);

  // Enqueues the copy of the step's `count` outputs to the host.
  void CopyOut(int64_t count);
  // Those of the earliest step that was copied out and not taken; waits for it. Valid until two steps later.
  const kernels::SampleOutput* Take();

 private:
  struct Copy {
    // Pinned: what Prepare sends, kept until `done`.
    at::Tensor entries;            // as entries_, by place in fresh_
    at::Tensor token_ids;          // [tokens of a sequence] int32, num_token_ids of them taken
    std::vector<at::Tensor> more;  // of rows that these have no room for
    int64_t num_token_ids = 0;
    at::Tensor out;  // pinned
    at::cuda::CUDAEvent done;
  };

  absl::Status Write(size_t index);  // of fresh_
  // The row's prompt and output, pinned.
  at::Tensor TokenIds(const SampleRow& row, Copy* copy);

  const int32_t vocab_size_;
  const at::Device device_;
  SampleSlots slots_;
  std::vector<kernels::SampleRowParams> rows_;
  std::vector<SampleSlots::Fresh> fresh_;
  at::Tensor counts_;     // [slots, vocab] int32
  at::Tensor entries_;    // [slots, kMaxSampleEntries] SampleEntry, as bytes
  at::Tensor out_;        // [max_tokens] SampleOutput, as bytes: of the latest step
  at::Tensor token_ids_;  // [tokens of a sequence] int32: of the sequence that is being counted
  at::Tensor workspace_;  // undefined: none is needed
  Copy copies_[2];
  uint64_t num_copied_ = 0, num_taken_ = 0;
};

}  // namespace spotlight::engine
