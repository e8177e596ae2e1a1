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

// Turns counts of kGroups * 4 * kSparseThreads bins into running sums; *early: the bin at which they reach `wanted`, if
// they do. Every thread must call; synchronises once.
template <int kGroups>
__device__ void SumUp(int32_t* histogram, int32_t wanted, int32_t* early, int32_t* warp_sums) {
  int4* const own = reinterpret_cast<int4*>(histogram) + threadIdx.x * kGroups;
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
  const int32_t before = BlockExclusiveSum<kSparseThreads>(total, warp_sums);
  int32_t under = 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    own[g] = make_int4(sums[g].x + before, sums[g].y + before, sums[g].z + before, sums[g].w + before);
    const int32_t missing = wanted - before;
    under += (sums[g].x < missing) + (sums[g].y < missing) + (sums[g].z < missing) + (sums[g].w < missing);
  }
  if (before < wanted && under < 4 * kGroups) *early = static_cast<int32_t>(threadIdx.x) * (4 * kGroups) + under;
}

// What a block publishes of each of its runs in turn.
class Publisher {
 public:
  // histograms: two of `bytes` each, a power of two times 4 KB, the first of which is zero. warp_sums [kSparseWarps].
  __device__ Publisher(int32_t* histograms, int32_t bytes, int32_t* warp_sums)
      : histograms_(histograms), bytes_(bytes), warp_sums_(warp_sums) {}

  // Where the next run's scores are counted.
  __device__ int32_t* histogram() const { return histograms_ + current_ * (bytes_ / 4); }

  // The run's scores have been counted: adds them to the row's sums and writes its own column, both of stride bins, and
  // then, sooner or later, to the counter. *early: see SumUp. Every thread must call; synchronises.
  __device__ void Publish(int32_t stride, int32_t* row_sums, int32_t* column, uint32_t* counter, int32_t wanted,
                          int32_t* early) {
    if (counter != counter_) Complete();
    __syncthreads();
    int32_t* const counts = histogram();
    current_ ^= 1;
    int4* const next = reinterpret_cast<int4*>(histogram());
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) WaitForBulkReads();  // of `next`
#endif
    switch (bytes_ / (16 * kSparseThreads)) {
      case 1:
        SumUp<1>(counts, wanted, early, warp_sums_);
        break;
      case 2:
        SumUp<2>(counts, wanted, early, warp_sums_);
        break;
      default:
        SumUp<4>(counts, wanted, early, warp_sums_);
    }
#pragma unroll 1
    for (int i = threadIdx.x; i < bytes_ / 16; i += kSparseThreads) next[i] = make_int4(0, 0, 0, 0);
#if __CUDA_ARCH__ >= 900
    FenceForBulkCopies();
    __syncthreads();
    if (threadIdx.x == 0) {
      BulkAdd(row_sums, counts, stride * 4);
      BulkStore(column, counts, stride * 4);
      CommitBulkStores();
    }
#else
    __syncthreads();
#pragma unroll 1
    for (int bin = threadIdx.x; bin < stride; bin += kSparseThreads) {
      column[bin] = counts[bin];
      atomicAdd(row_sums + bin, counts[bin]);
    }
#endif
    counter_ = counter;
    ++published_;
  }

  // Counts what has been published, once it is there for all to see.
  __device__ void Complete() {
    if (published_ == 0) return;
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
      WaitForBulkStores();
      ArriveThread(counter_, published_);
    }
#else
    ArriveBlock(counter_, published_);
#endif
    published_ = 0;
  }

 private:
  int32_t* const histograms_;
  const int32_t bytes_;
  int32_t* const warp_sums_;
  int current_ = 0;
  uint32_t* counter_ = nullptr;
  uint32_t published_ = 0;  // runs that the counter does not know of
};

// Of the complete sums of a row, the score at which they reach `wanted`, 0 < wanted <= the last. Some thread of those
// that call, num_threads all told, writes it.
__device__ inline void FindCut(const int32_t* row_sums, int32_t num_bins, int32_t wanted, int thread, int num_threads,
                               Cut* cut) {
  constexpr int kAhead = 4;
#pragma unroll 1
  for (int32_t first = thread * 4; first < num_bins; first += kAhead * num_threads * 4) {
    int4 sums[kAhead];
    int32_t before[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int32_t bin = first + i * num_threads * 4;
      sums[i] = make_int4(0, 0, 0, 0);
      before[i] = 0;
      if (bin >= num_bins) continue;
      sums[i] = __ldcg(reinterpret_cast<const int4*>(row_sums + bin));
      if (bin > 0) before[i] = __ldcg(row_sums + bin - 1);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int32_t bin = first + i * num_threads * 4;
      if (sums[i].w < wanted || before[i] >= wanted) continue;
      int32_t score = bin, under = before[i];
      if (sums[i].x < wanted) score = bin + 1, under = sums[i].x;
      if (sums[i].y < wanted) score = bin + 2, under = sums[i].y;
      if (sums[i].z < wanted) score = bin + 3, under = sums[i].z;
      *cut = {score, wanted - under};
    }
  }
}

// Columns of one (row, KV head)'s runs at its cut, by one warp: Load early, they come from far away.
class ColumnsAtCut {
  static constexpr int kEach = 4;  // neighbouring runs of a lane

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
          if (index > first) run.cut = cut_;  // the first has it, and is being read
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
