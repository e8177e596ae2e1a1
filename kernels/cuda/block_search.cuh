// Sums and searches over the threads of a block, in order.
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

// Where a running sum reaches what was asked for.
struct SumReached {
  int32_t index;   // the first i with value(0) + ... + value(i) >= wanted
  int32_t before;  // value(0) + ... + value(i - 1)
  int32_t value;   // value(i)
};

struct SearchShared {
  int32_t sums[64];
  SumReached reached;
};

// value(i) >= 0 for i in [0, count): neighbouring threads ask for neighbouring values, several each at once. The sum of
// all must be at least wanted > 0. Every thread of the block must call; synchronises.
template <int kWarps, class Value>
__device__ SumReached FindSum(const Value& value, int32_t count, int32_t wanted, SearchShared* shared) {
  constexpr int kChunks = 64 / kWarps;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int32_t before = 0;
#pragma unroll 1
  for (int32_t first = 0;; first += kChunks * kWarps * 32) {
    int32_t own[kChunks];
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int32_t i = first + (c * kWarps + warp) * 32 + lane;
      own[c] = 0;
      if (first + c * kWarps * 32 < count) own[c] = i < count ? value(i) : 0;
    }
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int32_t sum = first + c * kWarps * 32 < count ? __reduce_add_sync(~0u, own[c]) : 0;
      if (lane == 0) shared->sums[c * kWarps + warp] = sum;
    }
    __syncthreads();
    // Every warp finds the run of 32 values where it happens; the one that holds the run, the value.
    const int32_t low = shared->sums[2 * lane], high = shared->sums[2 * lane + 1];
    const int32_t up_to = before + WarpInclusiveSum(low + high);
    const uint32_t reached = __ballot_sync(~0u, up_to >= wanted);
    if (reached != 0) {
      const int pair = __ffs(static_cast<int>(reached)) - 1;
      const int32_t ahead = __shfl_sync(~0u, up_to - low - high, pair), first_sum = __shfl_sync(~0u, low, pair);
      const bool second = ahead + first_sum < wanted;
      const int run = 2 * pair + second;
      if (run % kWarps == warp) {
        int32_t mine = 0;
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
          if (c == run / kWarps) mine = own[c];
        }
        const int32_t inclusive = ahead + (second ? first_sum : 0) + WarpInclusiveSum(mine);
        if (inclusive >= wanted && inclusive - mine < wanted) {
          shared->reached = {first + run * 32 + lane, inclusive - mine, mine};
        }
      }
      __syncthreads();
      return shared->reached;
    }
    before = __shfl_sync(~0u, up_to, 31);
    __syncthreads();  // sums are read
  }
}

}  // namespace spotlight::kernels::cuda
