// The exact cut of a (row, KV head)'s competition, agreed among the blocks that share it in one exchange: each run adds
// the running sums of its histogram of scores to the row's, and leaves its own beside them. The row's sums give the
// threshold; the runs' own at the threshold say how many of the tied tokens, lowest index first, each run keeps, and
// where its tokens stand among the row's.
//
// Histograms begin with the best score.
#pragma once

#include <cstdint>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/ordered_sums.cuh"
#include "kernels/cuda/row_sync.cuh"
#include "kernels/cuda/runs.cuh"

namespace spotlight::kernels::cuda {

// What a block publishes of its runs, as many at a time as it has teams; or as it has runs, if those are fewer.
class Publisher {
 public:
  // histograms: one of `bytes` for each team, a multiple of 4 KB; all are zero. warp_sums [kSparseWarps *
  // kSparseWarps].
  __device__ Publisher(int32_t* histograms, int32_t bytes, int32_t* warp_sums)
      : histograms_(histograms), bytes_(bytes), warp_sums_(warp_sums) {}

  // Where team `team` counts scores.
  __device__ int32_t* histogram(int team) const { return histograms_ + team * (bytes_ / 4); }

  // Before the histograms are used again: makes them zero. Every thread must call; synchronises.
  __device__ void Clear(int count) {
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x % 32 == 0) WaitForBulkReads();
#endif
    __syncthreads();
    int4* const all = reinterpret_cast<int4*>(histograms_);
#pragma unroll 1
    for (int i = threadIdx.x; i < count * (bytes_ / 16); i += kSparseThreads) all[i] = make_int4(0, 0, 0, 0);
    __syncthreads();
  }

  // The scores of `count` runs have been counted, by team 0 and on: turns counts into running sums and, if `marked`,
  // finds run->likely. Every thread must call; synchronises.
  __device__ void SumUp(Run* runs, int count, bool marked) {
    __syncthreads();
    switch (bytes_ / (16 * kSparseThreads)) {
      case 1:
        SumUpBy<1>(runs, count, marked);
        break;
      case 2:
        SumUpBy<2>(runs, count, marked);
        break;
      default:
        SumUpBy<4>(runs, count, marked);
    }
#if __CUDA_ARCH__ >= 900
    FenceForBulkCopies();
#endif
    __syncthreads();
  }

  // The same for what the warp, which is team `team`, has counted of *run: nobody else is waited for. Every lane must
  // call.
  __device__ void SumUpAlone(int team, Run* run, bool marked) {
    __syncwarp();
    const int32_t wanted = run->MostEven();
    int4* const own = reinterpret_cast<int4*>(histogram(team));
    int32_t before = 0;
#pragma unroll 4
    for (int i = threadIdx.x % 32; i < bytes_ / 32; i += 32) {
      int4 low = own[2 * i], high = own[2 * i + 1];
      low.y += low.x;
      low.z += low.y;
      low.w += low.z;
      high.x += low.w;
      high.y += high.x;
      high.z += high.y;
      high.w += high.z;
      const int32_t inclusive = WarpInclusiveSum(high.w), below = before + inclusive - high.w;
      low = make_int4(low.x + below, low.y + below, low.z + below, low.w + below);
      high = make_int4(high.x + below, high.y + below, high.z + below, high.w + below);
      own[2 * i] = low;
      own[2 * i + 1] = high;
      if (marked && below < wanted && high.w >= wanted) {
        run->likely = 8 * i + (low.x < wanted) + (low.y < wanted) + (low.z < wanted) + (low.w < wanted) +
                      (high.x < wanted) + (high.y < wanted) + (high.z < wanted);
      }
      before += __shfl_sync(~0u, inclusive, 31);
    }
#if __CUDA_ARCH__ >= 900
    FenceForBulkCopies();
#endif
    __syncwarp();
  }

  // Adds team `team`'s sums to the row's and writes them to the run's own column, both of stride bins; counts that in
  // *counter, sooner or later. Of one warp.
  __device__ void Publish(int team, int32_t stride, int32_t* row_sums, int32_t* column, uint32_t* counter) {
    const int32_t* const sums = histogram(team);
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x % 32 == 0) {
      BulkAdd(row_sums, sums, stride * 4);
      BulkStore(column, sums, stride * 4);
      CommitBulkStores();
    }
#else
#pragma unroll 1
    for (int bin = threadIdx.x % 32; bin < stride; bin += 32) {
      column[bin] = sums[bin];
      atomicAdd(row_sums + bin, sums[bin]);
    }
#endif
    counter_ = counter;
  }

  // Counts what the warp has published, once it is there for all to see.
  __device__ void Complete() {
    if (counter_ == nullptr) return;
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x % 32 == 0) {
      WaitForBulkStores();
      ArriveThread(counter_, 1);
    }
#else
    __threadfence();
    __syncwarp();
    if (threadIdx.x % 32 == 0) ArriveThread(counter_, 1);
#endif
    counter_ = nullptr;
  }

 private:
  template <int kGroups>
  __device__ void SumUpBy(Run* runs, int count, bool marked) {
    const int warp = threadIdx.x / 32;
#pragma unroll 1
    for (int h = 0; h < count; ++h) {  // within each warp
      int4* const own = reinterpret_cast<int4*>(histogram(h)) + threadIdx.x * kGroups;
      int4 sums[kGroups];
      int32_t total = 0;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        sums[g] = own[g];
        sums[g].x += total;
        sums[g].y += sums[g].x;
        sums[g].z += sums[g].y;
        sums[g].w += sums[g].z;
        total = sums[g].w;
      }
      const int32_t inclusive = WarpInclusiveSum(total), before = inclusive - total;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) own[g] = Plus(sums[g], before);
      if (threadIdx.x % 32 == 31) warp_sums_[h * kSparseWarps + warp] = inclusive;
    }
    __syncthreads();
#pragma unroll 1
    for (int h = 0; h < count; ++h) {  // and those of the warps before
      int4* const own = reinterpret_cast<int4*>(histogram(h)) + threadIdx.x * kGroups;
      int32_t before = 0;
#pragma unroll
      for (int w = 0; w < kSparseWarps; ++w) before += w < warp ? warp_sums_[h * kSparseWarps + w] : 0;
      const int32_t wanted = runs[h].MostEven();
      int32_t under = 0;
      int4 sums;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        sums = Plus(own[g], before);
        own[g] = sums;
        under += (sums.x < wanted) + (sums.y < wanted) + (sums.z < wanted) + (sums.w < wanted);
      }
      const int32_t last_before = __shfl_up_sync(~0u, sums.w, 1);
      if (marked && (threadIdx.x % 32 == 0 ? before : last_before) < wanted && under < 4 * kGroups) {
        runs[h].likely = static_cast<int32_t>(threadIdx.x) * (4 * kGroups) + under;
      }
    }
  }
  __device__ static int4 Plus(const int4& sums, int32_t before) {
    return make_int4(sums.x + before, sums.y + before, sums.z + before, sums.w + before);
  }

  int32_t* const histograms_;
  const int32_t bytes_;
  int32_t* const warp_sums_;
  uint32_t* counter_ = nullptr;  // of what the warp has published and not counted yet
};

// Of the complete sums of a row, the score at which they reach `wanted`, 0 < wanted <= the last; by one warp, to all
// its lanes. guess: what it may be, no more than that.
__device__ inline Cut FindCut(const int32_t* row_sums, int32_t num_bins, int32_t wanted, int32_t guess) {
  constexpr int kNear = 128;  // bins that are looked at together
  const int lane = threadIdx.x % 32;
  const int32_t stride = BinStride(num_bins), each = (stride / 4 + 31) / 32 * 4;  // at most kNear
  // The last sum of every 32nd part comes along: where the guess is wrong it takes no more than a second look.
  const int32_t part_end = __ldcg(row_sums + min((lane + 1) * each, stride) - 1);
  int32_t begin = max(0, min(guess - kNear * 3 / 4, stride - kNear)) & ~3;
#pragma unroll 1
  for (bool certain = begin == 0;; certain = true) {
    const int32_t bin = begin + 4 * lane;
    int4 sums = make_int4(0, 0, 0, 0);
    if (bin < stride) sums = __ldcg(reinterpret_cast<const int4*>(row_sums + bin));
    const int32_t before = __shfl_up_sync(~0u, sums.w, 1);
    const bool after = lane == 0 ? certain || sums.x < wanted : before < wanted;
    const uint32_t here = __ballot_sync(~0u, bin < stride && sums.w >= wanted && after);
    if (here == 0) {
      begin = (__ffs(__ballot_sync(~0u, part_end >= wanted)) - 1) * each;
      continue;
    }
    int32_t score = bin, under = before;
    if (lane == 0) under = 0;
    if (sums.x < wanted) score = bin + 1, under = sums.x;
    if (sums.y < wanted) score = bin + 2, under = sums.y;
    if (sums.z < wanted) score = bin + 3, under = sums.z;
    const int found = __ffs(here) - 1;
    // What lies before the first bin of a part is what the part before ends with.
    const int32_t before_part = begin == 0 ? 0 : __shfl_sync(~0u, part_end, max(0, begin / each - 1));
    if (lane == 0 && sums.x >= wanted) under = before_part;
    return {__shfl_sync(~0u, score, found), wanted - __shfl_sync(~0u, under, found)};
  }
}

// Columns of one (row, KV head)'s runs at its cut, by one warp: Load early, they come from far away.
class ColumnsAtCut {
  static constexpr int kEach = 2;  // neighbouring runs of a lane

 public:
  // columns: of the (row, KV head)'s first run.
  __device__ ColumnsAtCut(const int32_t* columns, int32_t stride, int32_t num_runs, const Cut& cut)
      : columns_(columns), stride_(stride), num_runs_(num_runs), cut_(cut) {
    Load(0);
  }

  // Gives the block's runs [first, first + count) of the (row, KV head), consecutive in `runs`, their cut, their ties
  // and their place. offsets [num_runs + 1], in shared memory, if not null: all places. Every lane must call.
  __device__ void ShareOut(Run* runs, int32_t first, int32_t count, int32_t* offsets) {
    const int lane = threadIdx.x % 32;
    int32_t ties_before = 0, place = 0, most = 0;
#pragma unroll 1
    for (int32_t begin = 0; begin < num_runs_; begin += 32 * kEach) {
      if (begin > 0) Load(begin);
      int32_t own_ties = 0;
#pragma unroll
      for (int i = 0; i < kEach; ++i) own_ties += up_to_[i] - under_[i];
      const int32_t inclusive_ties = WarpInclusiveSum(own_ties);
      int32_t before = ties_before + inclusive_ties - own_ties, own = 0;
      int32_t allowed[kEach], chosen[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int32_t ties = up_to_[i] - under_[i];
        allowed[i] = max(0, min(ties, cut_.ties_wanted - before));
        before += ties;
        chosen[i] = under_[i] + allowed[i];
        own += chosen[i];
        most = max(most, chosen[i]);
      }
      const int32_t inclusive = WarpInclusiveSum(own);
      int32_t at = place + inclusive - own;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int32_t index = begin + lane * kEach + i;
        if (offsets != nullptr && index < num_runs_) offsets[index + 1] = at + chosen[i];
        if (index >= first && index < first + count) {
          Run& run = runs[index - first];
          run.cut = cut_;
          run.ties_allowed = allowed[i];
          run.num_chosen = chosen[i];
          run.place = at;
        }
        at += chosen[i];
      }
      ties_before += __shfl_sync(~0u, inclusive_ties, 31);
      place += __shfl_sync(~0u, inclusive, 31);
    }
    if (offsets != nullptr && lane == 0) offsets[0] = 0;
    most = __reduce_max_sync(~0u, most);
#pragma unroll 1
    for (int i = lane; i < count; i += 32) runs[i].most_chosen = most;
  }

 private:
  __device__ void Load(int32_t begin) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int32_t index = begin + static_cast<int32_t>(threadIdx.x % 32) * kEach + i;
      under_[i] = up_to_[i] = 0;
      if (index >= num_runs_) continue;
      const int32_t* column = columns_ + int64_t{index} * stride_ + cut_.score;
      up_to_[i] = __ldcg(column);
      if (cut_.score > 0) under_[i] = __ldcg(column - 1);
    }
  }

  const int32_t* const columns_;
  const int32_t stride_, num_runs_;
  const Cut cut_;
  int32_t under_[kEach], up_to_[kEach];
};

}  // namespace spotlight::kernels::cuda
