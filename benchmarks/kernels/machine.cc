#include "benchmarks/kernels/machine.h"

#include <cuda_runtime_api.h>
#include <torch/version.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <string>

#include "benchmarks/kernels/failure.h"
#include "benchmarks/kernels/full_attention.h"

namespace spotlight::benchmarks {
namespace {

// The first word of the kernel module's own line that looks like a version.
std::string DriverVersion() {
  std::ifstream file("/proc/driver/nvidia/version");
  for (std::string word; file >> word;) {
    if (std::isdigit(static_cast<unsigned char>(word[0])) != 0 && std::count(word.begin(), word.end(), '.') >= 1) {
      return word;
    }
  }
  return "unknown";
}

}  // namespace

bool HasDevice() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

void DescribeMachine(Report* report) {
  cudaDeviceProp properties;
  int runtime = 0;
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess || cudaRuntimeGetVersion(&runtime) != cudaSuccess) {
    Fail("the device does not say what it is");
  }
  report->device = properties.name;
  report->driver = DriverVersion();
  report->cuda = std::to_string(runtime / 1000) + "." + std::to_string(runtime / 10 % 100);
  report->torch = TORCH_VERSION;
  report->cudnn = CudnnVersion();
}

}  // namespace spotlight::benchmarks
