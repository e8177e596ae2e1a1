#include "engine/ops/execution.h"

#include <c10/cuda/CUDAStream.h>

#include "engine/ops/parallel.h"

namespace spotlight::engine {
namespace {

const kernels::ParallelFor& TorchParallelFor() {
  static const auto* const parallel_for = new kernels::ParallelFor(
      [](int64_t n, const std::function<void(int64_t, int64_t)>& body) { ParallelFor(n, 1, body); });
  return *parallel_for;
}

}  // namespace

kernels::Execution ExecutionOn(at::Device device) {
  kernels::Execution execution;
  if (device.is_cuda()) {
    execution.device = kernels::DeviceKind::kCuda;
    execution.stream = c10::cuda::getCurrentCUDAStream(device.index()).stream();
  } else {
    execution.parallel_for = &TorchParallelFor();
  }
  return execution;
}

}  // namespace spotlight::engine
