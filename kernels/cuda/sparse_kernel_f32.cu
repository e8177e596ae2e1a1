#include "kernels/cuda/sparse_kernel.cuh"

namespace spotlight::kernels::cuda {

template void LaunchSparse<float>(const LaunchOptions&, const SparseArgs&, int32_t, bool, int32_t, int32_t,
                                  LaunchSequence*);

}  // namespace spotlight::kernels::cuda
