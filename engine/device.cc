#include "engine/device.h"

#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "engine/model/linear.h"

namespace spotlight::engine {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

int64_t SystemAvailableBytes() {
  std::ifstream meminfo("/proc/meminfo");
  for (std::string line; std::getline(meminfo, line);) {
    std::istringstream fields(line);
    std::string name;
    int64_t kib = 0;
    if (fields >> name >> kib && name == "MemAvailable:") return kib << 10;
  }
  return kUnlimited;
}

int64_t ReadNumber(const char* path) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : kUnlimited;  // "max", or no such file
}

// File pages that the kernel drops when the container needs memory: the checkpoint just read is among them.
int64_t ReclaimableBytes() {
  std::ifstream stat("/sys/fs/cgroup/memory.stat");
  std::string name;
  for (int64_t bytes = 0; stat >> name >> bytes;) {
    if (name == "inactive_file") return bytes;
  }
  return 0;
}

// What the container's cgroup (v2) still allows.
int64_t ContainerAvailableBytes() {
  const int64_t limit = ReadNumber("/sys/fs/cgroup/memory.max");
  if (limit == kUnlimited) return kUnlimited;
  const int64_t used = ReadNumber("/sys/fs/cgroup/memory.current");
  return used == kUnlimited ? limit : std::max<int64_t>(0, limit - used + ReclaimableBytes());
}

// Why cudaGetDeviceCount has none to offer.
std::string CudaError() {
  int count = 0, driver_version = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  cudaGetLastError();  // the next launch's check would find it
  if (error == cudaSuccess) return "it counts no device";
  const bool no_driver = cudaDriverGetVersion(&driver_version) == cudaSuccess && driver_version == 0;
  return absl::StrCat(cudaGetErrorString(error), no_driver ? " (the driver's libcuda.so.1 is not found)" : "");
}

}  // namespace

absl::StatusOr<at::Device> ResolveDevice(const std::string& name, std::string* why_cpu,
                                         const std::vector<std::string>& gpu_paths) {
  if (name == "cpu") return at::Device(at::kCPU);
  const int count = c10::cuda::device_count();
  if (name == "auto") {
    if (count > 0) return at::Device(at::kCUDA, 0);
    auto reason = ReasonForCpu(CudaError(), gpu_paths);
    if (!reason.ok()) return reason.status();
    if (why_cpu != nullptr) *why_cpu = *std::move(reason);
    return at::Device(at::kCPU);
  }
  absl::string_view number = name;
  int index = -1;
  if (!absl::ConsumePrefix(&number, "cuda:") || !absl::SimpleAtoi(number, &index) || index < 0) {
    return absl::InvalidArgumentError(absl::StrCat("device: must be auto, cpu or cuda:N, got \"", name, "\""));
  }
  if (index >= count) {
    return absl::InvalidArgumentError(absl::StrCat("device: ", name, " is not there; this machine has ", count,
                                                   " usable CUDA devices",
                                                   count > 0 ? "" : absl::StrCat(": ", CudaError())));
  }
  return at::Device(at::kCUDA, static_cast<at::DeviceIndex>(index));
}

at::ScalarType ResolveDType(DTypeChoice choice, at::Device device) {
  switch (choice) {
    case DTypeChoice::kBf16:
      return at::kBFloat16;
    case DTypeChoice::kFp32:
      return at::kFloat;
    case DTypeChoice::kAuto:
      break;
  }
  return device.is_cuda() || Linear::HasFastBf16() ? at::kBFloat16 : at::kFloat;
}

absl::StatusOr<int64_t> AvailableBytes(at::Device device) {
  if (device.is_cpu()) return std::min(SystemAvailableBytes(), ContainerAvailableBytes());
  const c10::cuda::CUDAGuard guard(device);
  size_t free_bytes = 0, total_bytes = 0;
  const cudaError_t error = cudaMemGetInfo(&free_bytes, &total_bytes);
  if (error == cudaSuccess) return static_cast<int64_t>(free_bytes);
  cudaGetLastError();  // the next launch would find it
  const std::string message =
      absl::StrCat(device.str(), ": how much memory is free cannot be told: ", cudaGetErrorString(error));
  if (error == cudaErrorMemoryAllocation) return absl::ResourceExhaustedError(message);
  return absl::InternalError(message);
}

}  // namespace spotlight::engine
