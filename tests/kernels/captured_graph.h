// A CUDA graph captured from whatever a function enqueues on a stream.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <vector>

#include "absl/status/status.h"

namespace spotlight::kernels::testing {

class CapturedGraph {
 public:
  CapturedGraph() = default;
  ~CapturedGraph();
  CapturedGraph(const CapturedGraph&) = delete;
  CapturedGraph& operator=(const CapturedGraph&) = delete;

  // Once. The stream is the graph's own; Launch() uses it too.
  absl::Status Capture(const std::function<absl::Status(void* stream)>& enqueue);
  // Launches, and waits for the end.
  absl::Status Run();

  // Attributes of every kernel in the graph, as the driver loaded it.
  absl::Status KernelAttributes(std::vector<cudaFuncAttributes>* attributes) const;

 private:
  cudaStream_t stream_ = nullptr;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace spotlight::kernels::testing
