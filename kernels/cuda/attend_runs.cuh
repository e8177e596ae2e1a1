// A block attends to the chosen tokens of its runs, and leaves one partial result for each run and query head.
//
// A run's tokens make tiles of 16, tile t is sum t % kSparseWarps's; a sum's tiles add up in order, then the sums do.
// So a partial result depends on the run alone. A block with few runs gives each sum to a warp; with as many runs as
// warps, or nearly, a warp makes all sums of a run, and no warp waits for another.
#pragma once

#include <cstdint>

#include "kernels/cuda/agreement.cuh"
#include "kernels/cuda/attend_tile.cuh"
#include "kernels/cuda/gather_ring.cuh"
#include "kernels/cuda/run_tokens.cuh"

namespace spotlight::kernels::cuda {

static_assert(kHeadMultiple == kTileHeads);

// What a warp leaves to be merged: values [heads, kDim + 4] (padded against bank conflicts), shifts, sums [heads].
template <int kDim, int kHeadTiles>
struct WarpState {
  static constexpr int kHeads = kHeadTiles * kTileHeads, kStride = kDim + 4;
  static constexpr int kBytes = kHeads * (kStride + 2) * 4;
};

struct AttendShared {
  int32_t states[kSparseWarps];  // bytes from the ring's beginning
  uint64_t barriers[kSparseWarps][kGatherSlots];
};

template <class T, int kDim, int kHeadTiles, bool kManyRuns>
class RunAttention {
  using State = WarpState<kDim, kHeadTiles>;
  using Ring = GatherRing<T, kDim, State::kBytes>;
  using Attention = AttendWarp<T, kDim, kHeadTiles>;
  static constexpr int kHeads = State::kHeads;
  static constexpr bool kMerges = kManyRuns && Attention::kMerges;
  // Entries of a run that comes in pieces; what is left of them holds the places of a row's runs.
  static constexpr int kPieceEntries = 8 * kSparseWarps * kTileTokens, kMaxOffsets = kMaxEntries - kPieceEntries;

 public:
  // Runs of a row that may share out its tokens.
  static constexpr int kMaxSharingRuns = kMaxOffsets - 1;

  // rings: args.tile_ring_bytes for each warp. *phases: zero at first.
  __device__ RunAttention(const SparseArgs& args, const Run* runs, int num_runs, int32_t* entries, char* rings,
                          AttendShared* shared, uint32_t* phases)
      : args_(args),
        group_(args.num_q_heads / args.num_kv_heads),
        runs_(runs),
        num_runs_(num_runs),
        entries_(entries),
        rings_(rings),
        shared_(shared),
        alone_(kMerges && num_runs >= kMinRunsAlone),
        fed_run_(alone_ ? Warp() : 0),
        fed_tile_(alone_ ? 0 : Warp()),
        ring_(rings + threadIdx.x / 32 * args.tile_ring_bytes, args.tile_ring_bytes, shared->barriers[threadIdx.x / 32],
              phases) {}

  // The query does not depend on what is chosen.
  __device__ void Prepare() {
    if (num_runs_ > 0) LoadQuery(runs_[alone_ ? min(Warp(), num_runs_ - 1) : 0]);
  }

  // Every thread must call; the block has synchronised.
  __device__ void AttendToAll() {
    Feed();
#pragma unroll 1
    for (int s = alone_ ? Warp() : 0; s < num_runs_; s += alone_ ? kSparseWarps : 1) {
      const Run& run = runs_[s];
      if (run.source != RunSource::kEntries) continue;
      Begin(run);
      typename Attention::Total total;
      if constexpr (kMerges) Attention::Reset(&total);
      const int tiles = TilesOf(run);
      int tile = alone_ ? 0 : Warp();
#pragma unroll 1
      while (tile < tiles) {
        ring_.Pop(&warp_);
        const int next = NextTile(tile, tiles);
        if constexpr (kMerges) {
          if (alone_ && (next >= tiles || next != tile + kSparseWarps)) {
            warp_.MergeInto(&total);
            warp_.Reset();
          }
        }
        tile = next;
        if (tile < tiles) Feed();
      }
      if constexpr (kMerges) {
        if (alone_) {
          warp_.Take(total);
          StorePartial(run);
        }
      }
      if (!alone_) Merge(run, tiles);
      Feed();
    }
    if (alone_) __syncthreads();
#pragma unroll 1
    for (int s = 0; s < num_runs_; ++s) {
      if (runs_[s].source != RunSource::kEntries) AttendInPieces(runs_[s]);
    }
    Arrive();
  }

 private:
  __device__ static int Warp() {
    return threadIdx.x / 32;
  }
  __device__ static int TilesOf(const Run& run) {
    return (run.num_always + run.num_chosen + kTileTokens - 1) / kTileTokens;
  }

  __device__ void LoadQuery(const Run& run) {
    row_head_ = run.row_head;
    warp_.LoadQuery(static_cast<const Compute<T>*>(args_.q) + int64_t{run.row_head} * group_ * kDim, group_,
                    args_.scale_log2);
  }
  __device__ void Begin(const Run& run) {
    if (run.row_head != row_head_) LoadQuery(run);
    warp_.Reset();
  }
  // Of those that the warp attends to, in order of sum; `tiles` or more: none.
  __device__ int NextTile(int tile, int tiles) const {
    const int next = tile + kSparseWarps;
    if (next < tiles || !alone_) return next;
    const int sum = tile % kSparseWarps + 1;
    return sum < kSparseWarps ? sum : tiles;
  }

  // Begins to fetch tile `tile` of `entries`, of which there are `size`.
  __device__ void Push(const Run& run, const int32_t* entries, int32_t size, int tile) {
    const int32_t* own = entries + tile * kTileTokens;
    const auto entry_of = [&](int i) {
      const int32_t entry = own[i];
      const int64_t head = int64_t{entry / kPageTokens} * args_.num_kv_heads + run.head;
      return head * kPageTokens + entry % kPageTokens;
    };
    ring_.Push(static_cast<const T*>(args_.kv), args_.kv_scale, entry_of, min(kTileTokens, size - tile * kTileTokens));
  }

  // Fetches ahead, from run to run, among those whose entries are known.
  __device__ void Feed() {
#pragma unroll 1
    while (!ring_.full()) {
#pragma unroll 1
      while (fed_run_ < num_runs_ &&
             (runs_[fed_run_].source != RunSource::kEntries || fed_tile_ >= TilesOf(runs_[fed_run_]))) {
        fed_run_ += alone_ ? kSparseWarps : 1;
        fed_tile_ = alone_ ? 0 : Warp();
      }
      if (fed_run_ >= num_runs_) return;
      const Run& run = runs_[fed_run_];
      Push(run, entries_ + run.first_entry, run.num_always + run.num_chosen, fed_tile_);
      fed_tile_ = NextTile(fed_tile_, TilesOf(run));
    }
  }

  __device__ void AttendInPieces(const Run& run) {
    const int32_t always = run.num_always;
    Share share = {0, run.num_chosen};
    if (run.source == RunSource::kAll) {
      share.size = max(0, min(run.context_len - run.first_page * kPageTokens, run.num_pages * kPageTokens));
    }
    if (run.source == RunSource::kShared) {
      share = ShareOf(run.competition.num_select, run.num_runs, run.index);
      if (Warp() == 0) {
        const int32_t stride = BinStride(args_.num_bins);
        ColumnsAtCut columns(args_.columns + int64_t{run.in_launch - run.index} * stride, stride, run.num_runs,
                             run.cut);
        columns.ShareOut(nullptr, 0, 0, entries_ + kPieceEntries);
      }
      WaitBlock(args_.counters + int64_t{run.row_head} * kNumRowCounters + kListed, run.num_runs);
    }
    const int32_t size = always + share.size;
    Begin(run);
#pragma unroll 1
    for (int32_t first = 0; first < size; first += kPieceEntries) {
      const int32_t count = min(kPieceEntries, size - first);
#pragma unroll 1
      for (int32_t i = threadIdx.x; i < count; i += kSparseThreads) {
        const int32_t at = first + i - always;
        entries_[i] =
            EntryOf(PageTableOf(args_, run), at < 0 ? run.AlwaysToken(first + i) : TokenOf(run, share.begin + at));
      }
      __syncthreads();
      const int tiles = (count + kTileTokens - 1) / kTileTokens;
      int pushed = Warp();
#pragma unroll 1
      for (int tile = Warp(); tile < tiles; tile += kSparseWarps) {
#pragma unroll 1
        for (; pushed < tiles && !ring_.full(); pushed += kSparseWarps) Push(run, entries_, count, pushed);
        ring_.Pop(&warp_);
      }
      __syncthreads();
    }
    Merge(run, (size + kTileTokens - 1) / kTileTokens);
  }

  // Token `i` of what the run, or its row, has chosen.
  __device__ int32_t TokenOf(const Run& run, int32_t i) const {
    if (run.source == RunSource::kAll) return run.first_page * kPageTokens + i;
    int32_t first_page = run.first_page, at = i;
    if (run.source == RunSource::kShared) {
      const int32_t* const offsets = entries_ + kPieceEntries;
      int32_t low = 0, high = run.num_runs - 1;
      while (low < high) {
        const int32_t middle = (low + high + 1) / 2;
        if (offsets[middle] <= i) {
          low = middle;
        } else {
          high = middle - 1;
        }
      }
      first_page = ShareOf(run.row_pages, run.num_runs, low).begin;
      at = i - offsets[low];
    }
    const int64_t page = int64_t{run.row_head} * args_.row_pages + first_page;
    return first_page * kPageTokens + __ldcg(args_.lists + page * kPageTokens + at);
  }

  // The run's partial results, from the warps that had any of its `tiles`.
  __device__ void Merge(const Run& run, int tiles) {
    const int warps = min(tiles, kSparseWarps);
    if (Warp() < warps) {
      char* const state = ring_.FreeSlot();
      float* const values = reinterpret_cast<float*>(state);
      float* const shifts = values + kHeads * State::kStride;
#pragma unroll
      for (int t = 0; t < kHeadTiles; ++t) {
        const int head = t * kTileHeads;
        warp_.Store(t, State::kStride, values + head * State::kStride, shifts + head, shifts + kHeads + head);
      }
      if (threadIdx.x % 32 == 0) shared_->states[Warp()] = static_cast<int32_t>(state - rings_);
    }
    __syncthreads();
    const int64_t first = int64_t{run.in_launch} * kHeads;
#pragma unroll 1
    for (int i = threadIdx.x; i < group_ * (kDim / 4); i += kSparseThreads) {
      const int head = i / (kDim / 4), dim = i % (kDim / 4) * 4;
      float shift = kNoShift, sum = 0;
      float4 total = make_float4(0, 0, 0, 0);
#pragma unroll 1
      for (int w = 0; w < warps; ++w) {
        const float* state = reinterpret_cast<const float*>(rings_ + shared_->states[w]);
        const float4 values = *reinterpret_cast<const float4*>(state + head * State::kStride + dim);
        const StateMerger merger(state[kHeads * State::kStride + head], &shift);
        merger.Add(state[kHeads * (State::kStride + 1) + head], &sum);
        merger.Add(values.x, &total.x);
        merger.Add(values.y, &total.y);
        merger.Add(values.z, &total.z);
        merger.Add(values.w, &total.w);
      }
      *reinterpret_cast<float4*>(args_.partials + (first + head) * kDim + dim) = total;
      if (dim == 0) {
        args_.shifts[first + head] = shift;
        args_.sums[first + head] = sum;
      }
    }
#if __CUDA_ARCH__ >= 900
    FenceForBulkCopies();
#endif
    __syncthreads();
  }

  // What the warp has attended to is the run's partial result.
  __device__ void StorePartial(const Run& run) const {
    const int64_t first = int64_t{run.in_launch} * kHeads;
    warp_.Store(0, kDim, args_.partials + first * kDim, args_.shifts + first, args_.sums + first);
  }

  // Counts the runs, all of whose partial results the block has written.
  __device__ void Arrive() const {
    __syncthreads();
#pragma unroll 1
    for (int s = threadIdx.x; s < num_runs_; s += kSparseThreads) {
      ArriveThread(args_.counters + int64_t{runs_[s].row_head} * kNumRowCounters + kAttended, 1);
    }
  }

  const SparseArgs& args_;
  const int group_;
  const Run* const runs_;
  const int num_runs_;
  int32_t* const entries_;
  char* const rings_;
  AttendShared* const shared_;
  const bool alone_;  // a warp attends to a run alone
  int fed_run_, fed_tile_;
  Ring ring_;
  Attention warp_;
  int32_t row_head_ = -1;
};

}  // namespace spotlight::kernels::cuda
