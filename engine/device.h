// Which device and number type to run on, and how much memory there is for the cache.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/load.h"

namespace spotlight::engine {

// "auto": cuda:0 where there is one, else cpu. INVALID_ARGUMENT for a device that is not there.
absl::StatusOr<at::Device> ResolveDevice(const std::string& name);

// kAuto: bf16 on GPUs and on CPUs with AVX-512 bf16 arithmetic, else fp32.
at::ScalarType ResolveDType(DTypeChoice choice, at::Device device);

// Bytes that can be allocated on `device` now. On the CPU the smaller of the system's and the container's limit, and
// never an error. A GPU's driver may not tell: INTERNAL, or RESOURCE_EXHAUSTED where it lacks memory even for that.
absl::StatusOr<int64_t> AvailableBytes(at::Device device);

}  // namespace spotlight::engine
