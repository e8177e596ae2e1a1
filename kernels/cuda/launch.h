// The one place where kernels are launched: on the given stream, with the error checked. After a failure the rest of a
// sequence is skipped, and the first error is what the caller sees.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

namespace spotlight::kernels::cuda {

struct LaunchOptions {
  bool cooperative = false;  // every block is resident at once: the kernel has barriers across the grid
  // May begin before the stream's previous kernel ends: WaitForPrevious() orders them. Ignored where the code that runs
  // is compute_80's, which cannot wait.
  bool overlap_previous = false;
  int cluster_size = 1;  // blocks along x of a thread block cluster (sm_90)
};

// Programmatic dependent launch, on the device. Does nothing before sm_90, where launches never overlap.
// What the previous kernel of the stream wrote is visible after this.
__device__ inline void WaitForPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel may begin once every block has said so or ended.
__device__ inline void AllowNext() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

class LaunchSequence {
 public:
  explicit LaunchSequence(void* stream) : stream_(static_cast<cudaStream_t>(stream)) {}

  template <class... Params>
  void Launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
              const std::remove_reference_t<Params>&... params) {
    LaunchWith(LaunchOptions(), kernel, grid, block, shared_bytes, params...);
  }

  template <class... Params>
  void LaunchWith(const LaunchOptions& options, void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
                  const std::remove_reference_t<Params>&... params) {
    if (error_ != cudaSuccess) return;
    cudaLaunchAttribute attributes[3] = {};
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream_;
    config.attrs = attributes;
    if (options.cooperative) {
      attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
      attributes[config.numAttrs++].val.cooperative = 1;
    }
    if (options.overlap_previous && CanWait(reinterpret_cast<const void*>(kernel))) {
      attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (options.cluster_size > 1) {
      attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
      attributes[config.numAttrs].val.clusterDim.x = options.cluster_size;
      attributes[config.numAttrs].val.clusterDim.y = 1;
      attributes[config.numAttrs++].val.clusterDim.z = 1;
    }
    void* pointers[] = {const_cast<void*>(static_cast<const void*>(&params))...};
    Check(cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), pointers));
  }

  // Whether the device runs code of sm_90 for this kernel, not compute_80's, which any later device runs as well.
  bool CanWait(const void* kernel) {
    cudaFuncAttributes attributes = {};
    Check(cudaFuncGetAttributes(&attributes, kernel));
    return attributes.ptxVersion >= 90;
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
