#include "benchmarks/engine/device_name.h"

#include <cuda_runtime_api.h>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

namespace spotlight::engine {

std::string DeviceName(const std::string& device) {
  absl::string_view index = device;
  int number = 0;
  cudaDeviceProp properties;
  if (absl::ConsumePrefix(&index, "cuda:") && absl::SimpleAtoi(index, &number) &&
      cudaGetDeviceProperties(&properties, number) == cudaSuccess) {
    return properties.name;
  }
  return device;
}

}  // namespace spotlight::engine
