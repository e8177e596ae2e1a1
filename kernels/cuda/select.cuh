// Exact selection by one block: a histogram gives the threshold, prefix sums give every chosen token its place. Atomics
// only count; none decides an order.
#pragma once

#include <cstdint>

#include "kernels/layout.h"

namespace spotlight::kernels::cuda {

inline constexpr int kSelectThreads = 1024;
inline constexpr int kMaxScore = 32 * kMaxHashWords * ((1 << kMaxPlanes) - 1);

struct SelectShared {
  int32_t histogram[kMaxScore + 1];
  int32_t warp_sums[32];
  int32_t threshold, num_ties;
};

// Sum of x over the threads before this one; `total` over all. Every thread must call.
__device__ inline int32_t BlockExclusiveSum(int32_t x, int32_t* warp_sums, int32_t* total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int32_t inclusive = x;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int32_t below = __shfl_up_sync(~0u, inclusive, offset);
    if (lane >= offset) inclusive += below;
  }
  __syncthreads();  // the previous call's readers are done
  if (lane == 31) warp_sums[warp] = inclusive;
  __syncthreads();
  int32_t before = 0, all = 0;
  for (int w = 0; w < kSelectThreads / 32; ++w) {
    if (w < warp) before += warp_sums[w];
    all += warp_sums[w];
  }
  *total = all;
  return before + inclusive - x;
}

// Sets shared->threshold to the num_select-th largest score, and num_ties to how many equal ones are chosen.
__device__ inline void FindThreshold(const int16_t* scores, int32_t count, int32_t num_select, SelectShared* shared) {
  for (int bin = threadIdx.x; bin <= kMaxScore; bin += kSelectThreads) shared->histogram[bin] = 0;
  __syncthreads();
  for (int32_t i = threadIdx.x; i < count; i += kSelectThreads) atomicAdd(&shared->histogram[scores[i]], 1);
  __syncthreads();
  // Thread t owns four bins, counted from the top.
  constexpr int kBins = (kMaxScore + kSelectThreads) / kSelectThreads;
  int32_t owned[kBins], sum = 0;
  for (int i = 0; i < kBins; ++i) {
    const int bin = kMaxScore - static_cast<int>(threadIdx.x) * kBins - i;
    owned[i] = bin >= 0 ? shared->histogram[bin] : 0;
    sum += owned[i];
  }
  int32_t total;
  int32_t over = BlockExclusiveSum(sum, shared->warp_sums, &total);
  for (int i = 0; i < kBins; ++i) {
    if (over < num_select && over + owned[i] >= num_select) {
      shared->threshold = kMaxScore - static_cast<int>(threadIdx.x) * kBins - i;
      shared->num_ties = num_select - over;
    }
    over += owned[i];
  }
  __syncthreads();
}

// Writes the chosen of [0, count) to out in order: source[i], or base + i when source is null. out may be source: a
// place is never after its index, and a tile is read before it is written.
__device__ inline void CompactChosen(const int16_t* scores, int32_t count, const int32_t* source, int32_t base,
                                     int32_t* out, SelectShared* shared) {
  const int32_t threshold = shared->threshold, num_ties = shared->num_ties;
  int32_t written = 0, ties = 0;  // `ties` seen so far, chosen or not
  for (int32_t begin = 0; begin < count; begin += kSelectThreads) {
    const int32_t i = begin + static_cast<int32_t>(threadIdx.x);
    const int32_t score = i < count ? scores[i] : -1;
    const int32_t token = i < count ? (source != nullptr ? source[i] : base + i) : 0;
    const bool over = score > threshold, equal = score == threshold;
    int32_t total;
    const int32_t before = BlockExclusiveSum(over | equal << 16, shared->warp_sums, &total);
    const int32_t tie = ties + (before >> 16);
    const int32_t chosen_ties = min(tie, num_ties) - min(ties, num_ties);
    if (over || (equal && tie < num_ties)) out[written + (before & 0xffff) + chosen_ties] = token;
    const int32_t next_ties = ties + (total >> 16);
    written += (total & 0xffff) + min(next_ties, num_ties) - min(ties, num_ties);
    ties = next_ties;
  }
  __syncthreads();
}

}  // namespace spotlight::kernels::cuda
