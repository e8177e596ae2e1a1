#include "tests/kernels/captured_graph.h"

#include "tests/kernels/device_arena.h"

namespace spotlight::kernels::testing {

CapturedGraph::~CapturedGraph() {
  if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
  if (graph_ != nullptr) cudaGraphDestroy(graph_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::Status CapturedGraph::Capture(const std::function<absl::Status(void* stream)>& enqueue) {
  absl::Status status = ToStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  if (status.ok()) status = ToStatus(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal));
  if (!status.ok()) return status;
  status.Update(enqueue(stream_));
  status.Update(ToStatus(cudaStreamEndCapture(stream_, &graph_)));
  if (status.ok()) status = ToStatus(cudaGraphInstantiate(&executable_, graph_, 0));
  return status;
}

absl::Status CapturedGraph::Run() {
  absl::Status status = ToStatus(cudaGraphLaunch(executable_, stream_));
  status.Update(ToStatus(cudaStreamSynchronize(stream_)));
  return status;
}

absl::Status CapturedGraph::KernelAttributes(std::vector<cudaFuncAttributes>* attributes) const {
  size_t count = 0;
  absl::Status status = ToStatus(cudaGraphGetNodes(graph_, nullptr, &count));
  std::vector<cudaGraphNode_t> nodes(count);
  status.Update(ToStatus(cudaGraphGetNodes(graph_, nodes.data(), &count)));
  for (const cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type;
    status.Update(ToStatus(cudaGraphNodeGetType(node, &type)));
    if (!status.ok() || type != cudaGraphNodeTypeKernel) continue;
    cudaKernelNodeParams params = {};
    status.Update(ToStatus(cudaGraphKernelNodeGetParams(node, &params)));
    cudaFuncAttributes one = {};
    status.Update(ToStatus(cudaFuncGetAttributes(&one, params.func)));
    attributes->push_back(one);
  }
  return status;
}

}  // namespace spotlight::kernels::testing
