// Which device and number type to run on, and how much memory there is for the cache.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/gpu_presence.h"
#include "engine/load.h"

namespace spotlight::engine {

// "auto": cuda:0 where CUDA has a device, cpu where ReasonForCpu has a reason, which `why_cpu` gets. INVALID_ARGUMENT
// for a device that is not there; FAILED_PRECONDITION for "auto" with a GPU that CUDA cannot use.
absl::StatusOr<at::Device> ResolveDevice(const std::string& name, std::string* why_cpu = nullptr,
                                         const std::vector<std::string>& gpu_paths = GpuPathPatterns());

// kAuto: bf16 on GPUs and on CPUs with AVX-512 bf16 arithmetic, else fp32.
at::ScalarType ResolveDType(DTypeChoice choice, at::Device device);

// Bytes that can be allocated on `device` now. On the CPU the smaller of the system's and the container's limit, and
// never an error. A GPU's driver may not tell: INTERNAL, or RESOURCE_EXHAUSTED where it lacks memory even for that.
absl::StatusOr<int64_t> AvailableBytes(at::Device device);

}  // namespace spotlight::engine
