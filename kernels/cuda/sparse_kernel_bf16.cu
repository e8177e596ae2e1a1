#include <cuda_bf16.h>

#include "kernels/cuda/sparse_kernel.cuh"

namespace spotlight::kernels::cuda {

template void LaunchSparse<__nv_bfloat16>(const LaunchOptions&, const SparseArgs&, int32_t, bool, int32_t, int32_t,
                                          LaunchSequence*);

}  // namespace spotlight::kernels::cuda
