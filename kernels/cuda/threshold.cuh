// The exact cut of a (row, KV head)'s competition, agreed among the blocks that share it: a histogram of scores gives
// the threshold, counts of equal scores per page say which of the tied tokens, lowest index first, still belong.
#pragma once

#include <cstdint>

#include "kernels/cuda/block_search.cuh"
#include "kernels/cuda/row_sync.cuh"
#include "kernels/layout.h"

namespace spotlight::kernels::cuda {

// Of the tokens that tie with the threshold, those belong that lie in pages before tie_page, or are among the first
// ties_in_page of it.
struct Cut {
  int32_t tie_page, ties_in_page;

  __device__ int32_t TiesAllowed(int32_t page) const {
    return page < tie_page ? kPageTokens : (page == tie_page ? ties_in_page : 0);
  }
};

// Adds the block's histogram [num_bins] to the shared one and clears it.
template <int kThreads>
__device__ void PublishHistogram(int32_t* histogram, int num_bins, int32_t* global) {
#pragma unroll 4
  for (int bin = threadIdx.x; bin < num_bins; bin += kThreads) {
    const int32_t count = histogram[bin];
    if (count == 0) continue;
    atomicAdd(global + bin, count);
    histogram[bin] = 0;
  }
}

struct Threshold {
  int32_t score;
  int32_t ties_wanted, ties;  // how many of the equal ones are chosen, and how many there are

  // A cut among the ties is needed.
  __device__ bool exceeded() const { return ties > ties_wanted; }
};

// The `wanted`-th largest score of the complete histogram, 0 < wanted <= its sum. Every thread must call; synchronises.
template <int kWarps>
__device__ Threshold FindThreshold(const int32_t* histogram, int num_bins, int32_t wanted, SearchShared* shared) {
  const SumReached found =
      FindSum<kWarps>([=](int32_t i) { return __ldcg(histogram + num_bins - 1 - i); }, num_bins, wanted, shared);
  return {num_bins - 1 - found.index, wanted - found.before, found.value};
}

// Where the ties end: ties [num_pages], bytes, 16-byte aligned, readable to the next multiple of 16. Every thread must
// call; synchronises.
template <int kWarps>
__device__ Cut FindCut(const Threshold& threshold, const uint8_t* ties, int32_t num_pages, SearchShared* shared) {
  const auto ties_of_group = [=](int32_t group) {
    uint4 bytes = __ldcg(reinterpret_cast<const uint4*>(ties) + group);
    const int32_t tail = num_pages - group * 16;  // pages past the last hold nothing
    const auto keep = [=](uint32_t word, int32_t first) {
      return tail >= first + 4 ? word : (tail <= first ? 0u : word & ((1u << (tail - first) * 8) - 1));
    };
    uint32_t sum = __dp4a(keep(bytes.x, 0), 0x01010101u, 0u);
    sum = __dp4a(keep(bytes.y, 4), 0x01010101u, sum);
    sum = __dp4a(keep(bytes.z, 8), 0x01010101u, sum);
    return static_cast<int32_t>(__dp4a(keep(bytes.w, 12), 0x01010101u, sum));
  };
  const SumReached group = FindSum<kWarps>(ties_of_group, (num_pages + 15) / 16, threshold.ties_wanted, shared);
  // Every warp for itself: the page within the group.
  const int lane = threadIdx.x % 32;
  const int32_t page = group.index * 16 + lane;
  const int32_t own = lane < 16 && page < num_pages ? __ldcg(ties + page) : 0;
  const int32_t up_to = group.before + WarpInclusiveSum(own);
  const int last = __ffs(static_cast<int>(__ballot_sync(~0u, up_to >= threshold.ties_wanted))) - 1;
  return {group.index * 16 + last, threshold.ties_wanted - __shfl_sync(~0u, up_to - own, last)};
}

}  // namespace spotlight::kernels::cuda
