#include "engine/ops/pinned.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

namespace spotlight::engine {

at::Tensor PinnedEmpty(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::empty(shape, at::TensorOptions().dtype(dtype).pinned_memory(true));
}

void EnqueueCopy(const at::Tensor& to, const at::Tensor& from) {
  TORCH_CHECK(to.is_contiguous() && from.is_contiguous() && to.nbytes() == from.nbytes(), "EnqueueCopy: ", to.nbytes(),
              " bytes from ", from.nbytes(), ", both contiguous");
  if (to.nbytes() == 0) return;
  const at::Tensor& on_device = to.is_cuda() ? to : from;
  const auto stream = c10::cuda::getCurrentCUDAStream(on_device.device().index());
  C10_CUDA_CHECK(cudaMemcpyAsync(to.data_ptr(), from.data_ptr(), to.nbytes(), cudaMemcpyDefault, stream.stream()));
}

}  // namespace spotlight::engine
