// Launches of the kernel that sparse_decode is, a file for each storage type.
#pragma once

#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/sparse_args.cuh"

namespace spotlight::kernels::cuda {

// many_runs: warps of most blocks take runs alone. shared_bytes: besides SparseShared.
template <class T>
void LaunchSparse(const LaunchOptions& options, const SparseArgs& args, int32_t head_dim, bool many_runs,
                  int32_t blocks, int32_t shared_bytes, LaunchSequence* sequence);

}  // namespace spotlight::kernels::cuda
