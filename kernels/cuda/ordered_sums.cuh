// Sums over the threads of a warp and of a block, in order.
#pragma once

#include <cstdint>

namespace spotlight::kernels::cuda {

__device__ inline int32_t WarpInclusiveSum(int32_t x) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int32_t below = __shfl_up_sync(~0u, x, offset);
    if (lane >= offset) x += below;
  }
  return x;
}

// Sum of x over the threads before this one. Every thread must call; warp_sums [kThreads / 32] is free again after the
// block's next barrier.
template <int kThreads>
__device__ inline int32_t BlockExclusiveSum(int32_t x, int32_t* warp_sums) {
  const int warp = threadIdx.x / 32;
  const int32_t inclusive = WarpInclusiveSum(x);
  if (threadIdx.x % 32 == 31) warp_sums[warp] = inclusive;
  __syncthreads();
  int32_t before = 0;
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) before += w < warp ? warp_sums[w] : 0;
  return before + inclusive - x;
}

}  // namespace spotlight::kernels::cuda
