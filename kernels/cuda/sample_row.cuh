// A row of logits spread over the blocks of a cluster: sums and maxima over all of it, and the two searches that
// sampling is made of. Every function is called by all threads of all of the row's blocks, and gives all of them the
// same.
#pragma once

#include <cuda_runtime.h>

#include <climits>
#include <cstdint>

#include "kernels/cuda/cluster.cuh"
#include "kernels/sample.h"

namespace spotlight::kernels::cuda {

constexpr int kSampleThreads = 512;
constexpr int kSampleWarps = kSampleThreads / 32;
constexpr int kSampleClusterBlocks = 8;      // of a row, where there are clusters
constexpr int kSampleBins = kSampleThreads;  // of a histogram, a thread each
constexpr int kSampleBinBits = 9;
constexpr unsigned kAllLanes = ~0u;

// Logits as integers of the same order. -0 is not among them: whoever makes a key adds 0 first.
constexpr uint32_t kLowestKey = 0x00800000;  // of the lowest finite float
constexpr uint32_t kMinusInfinityKey = 0x007FFFFF;
constexpr uint32_t kInfinityKey = 0xFF800000;
constexpr uint32_t kNanKey = 0xFFFFFFFF;

__device__ inline uint32_t KeyOf(float x) {
  if (x != x) return kNanKey;
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}
__device__ inline float LogitOf(uint32_t key) {
  return __uint_as_float(key & 0x80000000 ? key & 0x7FFFFFFF : ~key);
}

// What is kept of a row: the keys above, and of those equal the ids up to `id`.
struct Cut {
  uint32_t key;
  int32_t id;
  __device__ bool Keeps(uint32_t other_key, int32_t other_id) const {
    return other_key > key || (other_key == key && other_id <= id);
  }
};
__device__ inline Cut Stricter(const Cut& a, const Cut& b) {
  if (a.key != b.key) return a.key > b.key ? a : b;
  return a.id < b.id ? a : b;
}

__device__ inline uint64_t WarpSum(uint64_t x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}
__device__ inline uint64_t WarpMax(uint64_t x) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, x, offset);
    x = other > x ? other : x;
  }
  return x;
}
__device__ inline uint64_t WarpInclusive(uint64_t x) {
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint64_t other = __shfl_up_sync(kAllLanes, x, offset);
    if (threadIdx.x % 32 >= offset) x += other;
  }
  return x;
}

// Of one block. What is there twice is used by turns: the row's blocks may still read the one when the other is
// written.
struct SampleShared {
  uint64_t block_value[2];
  uint64_t warp_values[2][kSampleWarps];
  uint32_t bin_counts[2][kSampleBins];
  uint32_t bin_low[2][kSampleBins], bin_high[2][kSampleBins];  // halves of a bin's weight
  uint64_t found_before;
  uint32_t found_bin, found_count;
  uint32_t num_top;
  uint64_t top[kMaxTopLogprobs], all_top[kMaxTopLogprobs];
};

class SampleRow {
 public:
  // A warp owns the ids [warp_begin, warp_end); values[id - block_begin] is an id's key.
  __device__ SampleRow(SampleShared* shared, uint32_t* values, int num_blocks, int block, int segment, int vocab_size)
      : shared_(shared),
        values_(values),
        num_blocks_(num_blocks),
        block_(block),
        lane_(threadIdx.x % 32),
        warp_(threadIdx.x / 32) {
    block_begin_ = block * kSampleWarps * segment;
    warp_begin_ = min(block_begin_ + warp_ * segment, vocab_size);
    warp_end_ = min(warp_begin_ + segment, vocab_size);
  }

  __device__ int warp_begin() const { return warp_begin_; }
  __device__ int warp_end() const { return warp_end_; }
  __device__ bool Holds(int id) const { return id >= block_begin_ && id < block_begin_ + block_size_; }
  __device__ uint32_t* At(int id) { return values_ + (id - block_begin_); }
  __device__ void SetBlockSize(int size) { block_size_ = size; }

  // visit(key, id) for the ids of this thread, ascending.
  template <class Visit>
  __device__ void ForEach(Visit visit) const {
    for (int id = warp_begin_ + lane_; id < warp_end_; id += 32) visit(values_[id - block_begin_], id);
  }

  // All threads of all blocks, and what they wrote.
  __device__ void Sync() const {
#ifdef SPOTLIGHT_CLUSTERS
    if (num_blocks_ > 1) {
      ArriveAtCluster();
      WaitForCluster();
      return;
    }
#endif
    __syncthreads();
  }

  template <class T>
  __device__ T Read(const T* mine, int block) const {
#ifdef SPOTLIGHT_CLUSTERS
    const uint32_t remote = RemoteAddress(static_cast<uint32_t>(__cvta_generic_to_shared(mine)), block);
    if constexpr (sizeof(T) == 8) {
      uint64_t value;
      asm volatile("ld.shared::cluster.u64 %0, [%1];" : "=l"(value) : "r"(remote) : "memory");
      return value;
    } else {
      uint32_t value;
      asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(remote) : "memory");
      return value;
    }
#else
    return *mine;
#endif
  }

  struct Sums {
    uint64_t all;     // the row's
    uint64_t before;  // of the warps with lower ids
    uint64_t warp;    // this one's
  };
  __device__ Sums Sum(uint64_t mine) {
    Sums sums;
    sums.warp = WarpSum(mine);
    const uint64_t other = OfWarp(sums.warp);
    sums.before = WarpSum(lane_ < warp_ ? other : 0);
    const uint64_t of_block = OfBlock(WarpSum(other));
    sums.all = WarpSum(of_block);
    sums.before += WarpSum(lane_ < block_ ? of_block : 0);
    return sums;
  }
  __device__ uint64_t Max(uint64_t mine) {
    return WarpMax(OfBlock(WarpMax(OfWarp(WarpMax(mine)))));
  }

  // The lowest id at which the sum of measure(key, id), by ids, exceeds `target` < sums.all. `sums`: of the measure.
  template <class Measure>
  __device__ int32_t Find(const Sums& sums, uint64_t target, Measure measure) {
    uint64_t found = 0;
    if (sums.before <= target && target < sums.before + sums.warp) {
      // Each lane sums a run of its own, then all of them search the run that reaches the target.
      const int count = (warp_end_ - warp_begin_ + 31) / 32;
      int begin = min(warp_begin_ + lane_ * count, warp_end_);
      int end = min(begin + count, warp_end_);
      uint64_t mine = 0;
      for (int id = begin; id < end; ++id) mine += measure(values_[id - block_begin_], id);
      const uint64_t through = sums.before + WarpInclusive(mine);
      const int lane = __ffs(__ballot_sync(kAllLanes, through > target)) - 1;
      uint64_t before = __shfl_sync(kAllLanes, through - mine, lane);
      begin = __shfl_sync(kAllLanes, begin, lane);
      end = __shfl_sync(kAllLanes, end, lane);
      for (; begin < end; begin += 32) {
        const int id = begin + lane_;
        const uint64_t inclusive = before + WarpInclusive(id < end ? measure(values_[id - block_begin_], id) : 0);
        const unsigned over = __ballot_sync(kAllLanes, inclusive > target);
        if (over != 0) {
          found = begin + __ffs(over);
          break;
        }
        before = __shfl_sync(kAllLanes, inclusive, 31);
      }
    }
    return static_cast<int32_t>(Max(found)) - 1;
  }

  // One bin of the keys [low, high]: that in which the measures' sum, from the highest key on, reaches `target` > 0.
  struct Bin {
    uint32_t bottom, top;  // its keys
    uint32_t count;        // entries in it
    uint64_t before;       // measure of the keys above it, up to `high`
  };
  // each(add) calls add(key) for this thread's entries; weigh(key) is an entry's measure, or null: 1. False: the sum
  // never reaches it.
  template <bool kWeighted, class Each, class Weigh>
  __device__ bool FindBin(uint32_t low, uint32_t high, uint64_t target, Each each, Weigh weigh, Bin* bin) {
    const uint32_t range = high - low;
    const int shift = range < kSampleBins ? 0 : 32 - kSampleBinBits - __clz(range);
    uint32_t* const counts = shared_->bin_counts[bins_turn_];
    uint32_t* const lows = shared_->bin_low[bins_turn_];
    uint32_t* const highs = shared_->bin_high[bins_turn_];
    bins_turn_ ^= 1;
    counts[threadIdx.x] = lows[threadIdx.x] = highs[threadIdx.x] = 0;
    __syncthreads();
    each([&](uint32_t key) {
      if (key < low || key > high) return;
      const uint32_t index = (high - key) >> shift;
      atomicAdd(&counts[index], 1);
      if constexpr (kWeighted) {
        const uint64_t weight = weigh(key);
        const auto low_half = static_cast<uint32_t>(weight);
        const uint32_t sum = atomicAdd(&lows[index], low_half) + low_half;
        const auto high_half = static_cast<uint32_t>(weight >> 32) + (sum < low_half ? 1 : 0);
        if (high_half != 0) atomicAdd(&highs[index], high_half);
      }
    });
    Sync();
    uint32_t count = 0;
    uint64_t measure = 0;
    // All reads on their way before the first is used.
    uint32_t of_blocks[3][kSampleClusterBlocks];
#pragma unroll
    for (int i = 0; i < kSampleClusterBlocks; ++i) {
      const int block = min(i, num_blocks_ - 1);
      of_blocks[0][i] = Read(&counts[threadIdx.x], block);
      if constexpr (kWeighted) {
        of_blocks[1][i] = Read(&lows[threadIdx.x], block);
        of_blocks[2][i] = Read(&highs[threadIdx.x], block);
      }
    }
#pragma unroll
    for (int i = 0; i < kSampleClusterBlocks; ++i) {
      if (i >= num_blocks_) continue;
      count += of_blocks[0][i];
      if constexpr (kWeighted) measure += (uint64_t{of_blocks[2][i]} << 32) + of_blocks[1][i];
    }
    if constexpr (!kWeighted) measure = count;
    const uint64_t inclusive = WarpInclusive(measure);
    const uint64_t other = OfWarp(__shfl_sync(kAllLanes, inclusive, 31));
    const uint64_t through = WarpSum(lane_ < warp_ ? other : 0) + inclusive;
    if (WarpSum(other) < target) return false;
    if (through >= target && through - measure < target) {
      shared_->found_bin = threadIdx.x;
      shared_->found_count = count;
      shared_->found_before = through - measure;
    }
    __syncthreads();
    bin->top = high - (shared_->found_bin << shift);
    const uint32_t width = (1u << shift) - 1;
    bin->bottom = bin->top - low > width ? bin->top - width : low;
    bin->count = shared_->found_count;
    bin->before = shared_->found_before;
    return true;
  }

  // The shortest part of `within`, best first, whose measure reaches `target` > 0; all of it where none does. Of the
  // keys under `low` none can be in that part.
  template <bool kWeighted, class Weigh>
  __device__ Cut Select(const Cut& within, uint32_t low, uint32_t high, uint64_t target, Weigh weigh) {
    const auto entries = [&](auto add) {
      ForEach([&](uint32_t key, int32_t id) {
        if (within.Keeps(key, id)) add(key);
      });
    };
    low = max(low, within.key);
    while (true) {
      Bin bin;
      if (!FindBin<kWeighted>(low, high, target, entries, weigh, &bin)) return Stricter(within, Cut{low, INT_MAX});
      target -= bin.before;
      const bool whole = bin.count == 1 || (!kWeighted && target == bin.count);
      if (whole) return Stricter(within, Cut{bin.bottom, INT_MAX});
      if (bin.bottom == bin.top) return Stricter(within, Ties(within, bin, kWeighted ? weigh(bin.top) : 1, target));
      low = bin.bottom;
      high = bin.top;
    }
  }

 private:
  // Of equal keys, as many of the lowest ids as it takes.
  __device__ Cut Ties(const Cut& within, const Bin& bin, uint64_t weight, uint64_t target) {
    const uint64_t needed = (target + weight - 1) / weight;
    if (needed >= bin.count) return {bin.top, INT_MAX};
    const auto is_tie = [&](uint32_t key, int32_t id) -> uint64_t { return key == bin.top && within.Keeps(key, id); };
    uint64_t mine = 0;
    ForEach([&](uint32_t key, int32_t id) { mine += is_tie(key, id); });
    const Sums sums = Sum(mine);
    return {bin.top, Find(sums, needed - 1, is_tie)};
  }

  // `mine` of the block's warp `lane`, 0 beyond the last.
  __device__ uint64_t OfWarp(uint64_t mine) {
    uint64_t* const values = shared_->warp_values[warps_turn_];
    warps_turn_ ^= 1;
    if (lane_ == 0) values[warp_] = mine;
    __syncthreads();
    return lane_ < kSampleWarps ? values[lane_] : 0;
  }
  // `mine` of the row's block `lane`, 0 beyond the last.
  __device__ uint64_t OfBlock(uint64_t mine) {
    uint64_t* const value = &shared_->block_value[blocks_turn_];
    blocks_turn_ ^= 1;
    if (threadIdx.x == 0) *value = mine;
    Sync();
    return lane_ < num_blocks_ ? Read(value, lane_) : 0;
  }

  SampleShared* const shared_;
  uint32_t* const values_;
  const int num_blocks_, block_, lane_, warp_;
  int block_begin_, block_size_ = 0, warp_begin_, warp_end_;
  int warps_turn_ = 0, blocks_turn_ = 0, bins_turn_ = 0;
};

}  // namespace spotlight::kernels::cuda
