// The one place where kernels are launched: on the given stream, with the error checked. After a failure the rest of a
// sequence is skipped, and the first error is what the caller sees.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

namespace spotlight::kernels::cuda {

class LaunchSequence {
 public:
  explicit LaunchSequence(void* stream) : stream_(static_cast<cudaStream_t>(stream)) {}

  template <class... Params>
  void Launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
              const std::remove_reference_t<Params>&... params) {
    if (error_ != cudaSuccess) return;
    void* pointers[] = {const_cast<void*>(static_cast<const void*>(&params))...};
    Check(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, shared_bytes, stream_));
  }

  void Check(cudaError_t error) {
    if (error_ == cudaSuccess) error_ = error;
  }

  cudaStream_t stream() const { return stream_; }
  bool ok() const { return error_ == cudaSuccess; }
  cudaError_t error() const { return error_; }

 private:
  cudaStream_t stream_;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace spotlight::kernels::cuda
