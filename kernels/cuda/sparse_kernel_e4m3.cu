#include <cuda_fp8.h>

#include "kernels/cuda/sparse_kernel.cuh"

namespace spotlight::kernels::cuda {

// Queries and outputs in bf16.
template void LaunchSparse<__nv_fp8_e4m3>(const LaunchOptions&, const SparseArgs&, int32_t, bool, int32_t, int32_t,
                                          LaunchSequence*);

}  // namespace spotlight::kernels::cuda
