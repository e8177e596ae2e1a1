// Whether "auto" may mean the CPU: what the kernel and the environment say of NVIDIA GPUs where CUDA has none to offer.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace spotlight::engine {

// Where a GPU shows: its device node, and the driver's own list, which containers see as well. Patterns of glob(3).
std::vector<std::string> GpuPathPatterns();

// For a machine on which CUDA has no usable device, for `cuda_error`. The reason why it is right to take the CPU:
// there is no GPU, or CUDA_VISIBLE_DEVICES or NVIDIA_VISIBLE_DEVICES (the container runtime's) hides all: is empty,
// "none" or "-1". FAILED_PRECONDITION where a GPU is there and nobody hides it.
absl::StatusOr<std::string> ReasonForCpu(const std::string& cuda_error, const std::vector<std::string>& gpu_paths);

}  // namespace spotlight::engine
