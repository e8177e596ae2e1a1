// Codes of a warp's pages on their way to shared memory, ahead of their use, by the warp for itself.
#pragma once

#include <cstdint>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/runs.cuh"
#include "kernels/cuda/score_tile.cuh"
#include "kernels/layout.h"

namespace spotlight::kernels::cuda {

inline constexpr int kCodeStages = 2;

// The warp's pages of its team's runs that compete, in order, through a ring of kCodeStages parts of up to 32 pages. A
// part holds pages of one run. Every lane must call everything.
template <int kWords>
class CodeStream {
  static constexpr int kPageBytes = kWords * 4 * kPageTokens;

 public:
  // codes [pages, Hkv, P, kWords]. ring: 16-byte aligned shared memory of ring_bytes, at least kCodeStages pages.
  // pages: where numbers of pages stay, for runs whose scores are in shared memory.
  // barriers [kCodeStages]: initialised; *phases: zero at first, then kept from stream to stream.
  __device__ CodeStream(const SparseArgs& args, const uint32_t* codes, const Run* runs, int num_runs,
                        const Teams& teams, char* ring, int32_t* pages, uint64_t* barriers, uint32_t* phases)
      : args_(args),
        codes_(reinterpret_cast<const char*>(codes)),
        runs_(runs),
        num_runs_(num_runs),
        step_(teams.count),
        ring_(ring),
        resident_(pages),
        barriers_(barriers),
        phases_(phases),
        part_pages_(max(1, min(32, args.ring_bytes / kCodeStages / kPageBytes))),
        run_(teams.own()) {
    EnterRun();
    LoadPages();
#pragma unroll 1
    for (int part = 0; part < kCodeStages; ++part) Fill(part);
  }

  // Of a run's pages that are left, those that the next part holds.
  __device__ int32_t PartOf(int32_t left) const {
    return min(part_pages_, left);
  }

  // Asks the L2 for `count` pages, 32 at most, that follow those on their way.
  __device__ void Prefetch(int count) const {
#if __CUDA_ARCH__ >= 900
    int32_t page = static_cast<int32_t>(threadIdx.x % 32);
    if (page >= count || run_ >= num_runs_) return;
    page += next_ - runs_[run_].WarpPages().begin;
#pragma unroll 1
    for (int r = run_; r < num_runs_; r += step_) {
      const Run& run = runs_[r];
      const Share pages = run.WarpPages();
      if (!run.competes) continue;
      if (page < pages.size) {
        const int32_t* const table = args_.page_table + int64_t{run.row} * args_.max_pages + run.first_page;
        BulkPrefetch(SourceOf(table[pages.begin + page], run.head), kPageBytes);
        return;
      }
      page -= pages.size;
    }
#endif
  }

  // The codes of the next part. Once for each fill.
  __device__ const Code<kWords>* Wait(int part) {
#if __CUDA_ARCH__ >= 900
    WaitForPhase(barriers_ + part, *phases_ >> part & 1);
    *phases_ ^= 1u << part;
#else
    WaitForCopies<kCodeStages - 1>();
    __syncwarp();
#endif
    return reinterpret_cast<const Code<kWords>*>(ring_ + part * part_pages_ * kPageBytes);
  }

  // Everyone has read the part: the next pages may overwrite it.
  __device__ void Fill(int part) {
    __syncwarp();
    const int lane = threadIdx.x % 32;
    if (count_ > 0) {
      if (lane < count_ && place_ >= 0) resident_[place_ + lane] = page_;
      char* out = ring_ + part * part_pages_ * kPageBytes;
#if __CUDA_ARCH__ >= 900
      if (lane == 0) ExpectBytes(barriers_ + part, count_ * kPageBytes);
      __syncwarp();
      if (lane < count_) BulkCopy(out + lane * kPageBytes, SourceOf(page_, page_head_), kPageBytes, barriers_ + part);
#else
#pragma unroll 1
      for (int i = 0; i < count_; ++i) {
        const char* from = SourceOf(__shfl_sync(~0u, page_, i), page_head_);
        for (int byte = lane * 16; byte < kPageBytes; byte += 512)
          CopyAsync16(out + i * kPageBytes + byte, from + byte);
      }
#endif
      LoadPages();
    }
#if __CUDA_ARCH__ < 900
    CommitCopies();
#endif
  }

 private:
  __device__ const char* SourceOf(int32_t page, int32_t head) const {
    return codes_ + (int64_t{page} * args_.num_kv_heads + head) * kPageBytes;
  }
  // The next run of which the warp has pages.
  __device__ void EnterRun() {
#pragma unroll 1
    for (; run_ < num_runs_; run_ += step_) {
      const Run& run = runs_[run_];
      const Share pages = run.WarpPages();
      if (!run.competes || pages.size == 0) continue;
      head_ = run.head;
      score_page_ = run.score_page;
      table_ = args_.page_table + int64_t{run.row} * args_.max_pages + run.first_page;
      next_ = pages.begin;
      end_ = pages.begin + pages.size;
      return;
    }
  }
  // Numbers of the pages of the fill after this one: they have come when it is their turn.
  __device__ void LoadPages() {
    count_ = 0;
    if (run_ >= num_runs_) return;
    const int lane = threadIdx.x % 32;
    count_ = PartOf(end_ - next_);
    page_head_ = head_;
    place_ = score_page_ < 0 ? -1 : score_page_ + next_;
    if (lane < count_) page_ = table_[next_ + lane];
    next_ += count_;
    if (next_ == end_) {
      run_ += step_;
      EnterRun();
    }
  }

  const SparseArgs& args_;
  const char* const codes_;
  const Run* const runs_;
  const int num_runs_, step_;
  char* const ring_;
  int32_t* const resident_;
  uint64_t* const barriers_;
  uint32_t* const phases_;
  const int part_pages_;
  int run_;
  int32_t head_ = 0, score_page_ = -1, next_ = 0, end_ = 0;
  const int32_t* table_ = nullptr;
  int32_t count_ = 0, page_ = 0, page_head_ = 0, place_ = -1;  // of the next fill
};

}  // namespace spotlight::kernels::cuda
