// Where the activations of the sequences are kept while a hash is trained. Arithmetic only.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace spotlight::training {

// On one training device.
struct MemoryNeeds {
  std::string device = "cpu";
  int64_t weight_bytes = 0;     // of the model, loaded already
  int64_t step_bytes = 0;       // a training step, hash and optimiser included
  int64_t pass_bytes = 0;       // a sequence's pass through the model
  int64_t sequence_bytes = 0;   // activations of one sequence
  int32_t num_sequences = 0;    // trained on
  int32_t num_heldout = 0;      // always on the device
  int32_t num_samples = 0;      // on the device at once before the first step
  bool limited = false;         // by --max-memory rather than by what is free
  bool sequences_recur = true;  // false: every sequence is used once, and none is worth keeping
};

struct MemoryPlan {
  int32_t sequences_on_device = 0;
  int32_t sequences_on_host = 0;  // beside a GPU, in pinned memory; the rest passes through the model in each epoch
  int64_t device_bytes = 0;       // beside the weights
  int64_t host_bytes = 0;
};

// free_device_bytes: what may be allocated beside the loaded weights. free_host_bytes: what may be pinned; 0 where the
// device is the CPU. RESOURCE_EXHAUSTED, with the numbers, when not even one sequence at a time fits.
absl::StatusOr<MemoryPlan> PlanMemory(const MemoryNeeds& needs, int64_t free_device_bytes, int64_t free_host_bytes);

// One line: "memory on cuda:0: ...".
std::string DescribeMemory(const MemoryNeeds& needs, const MemoryPlan& plan, int64_t free_device_bytes);

// "1.25 GB", "87.2 MB", "3 KB".
std::string FormatBytes(int64_t bytes);

}  // namespace spotlight::training
