// What one block does in each stage of sparse_decode.
#pragma once

#include <cstdint>

#include "kernels/cuda/attend_tile.cuh"
#include "kernels/cuda/combine_units.cuh"
#include "kernels/cuda/gather_ring.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sparse_args.cuh"
#include "kernels/cuda/sparse_plan.h"
#include "kernels/cuda/sparse_unit.cuh"

namespace spotlight::kernels::cuda {

static_assert(kHeadMultiple == kTileHeads);

inline constexpr int kQueueBytes = kQueueEntries * 4 + kMaxTies * 2;

struct SparseShared {
  int32_t unit_begin[kMaxLaunchRows + 1];
  SearchShared search;
  Segment segments[kMaxSegments];
  CombineShared combine;
  uint32_t ticket;
  // Of each warp's copies.
  uint64_t code_barriers[kSparseWarps][CodeStream<1>::kStages], gather_barriers[kSparseWarps][kGatherSlots];
};

__device__ inline uint64_t Nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

// Shared memory of a warp.
__host__ __device__ inline int32_t WarpBytes(const SparseArgs& args) {
  return kQueueBytes + args.mask_bytes + args.score_bytes + args.ring_bytes;
}

// A block's part of one launch.
class SparseBlock {
 public:
  __device__ SparseBlock(const SparseArgs& args, char* dynamic, SparseShared* shared)
      : args_(args), shared_(shared), warp_(threadIdx.x / 32), histogram_(reinterpret_cast<int32_t*>(dynamic)) {
    queue_ = reinterpret_cast<int32_t*>(dynamic + args.histogram_bytes + warp_ * WarpBytes(args));
    masks_ = reinterpret_cast<char*>(queue_) + kQueueBytes;
    scores_ = masks_ + args.mask_bytes;
#pragma unroll 1
    for (int bin = threadIdx.x; bin < args_.histogram_bytes / 4; bin += kSparseThreads) histogram_[bin] = 0;
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x % 32 == 0) {
      for (uint64_t& barrier : shared->code_barriers[warp_]) InitBarrier(&barrier);
      for (uint64_t& barrier : shared->gather_barriers[warp_]) InitBarrier(&barrier);
      FenceBarrierInit();
    }
#endif
    map_.Build(args.context_len, args.num_rows, args.num_kv_heads, args.max_units, shared->unit_begin);
    const int32_t begin = map_.BlockBegin(blockIdx.x), end = map_.BlockBegin(blockIdx.x + 1);
    num_segments_ = 0;
    if (begin == end) return;
    const int32_t first = map_.RowHeadOf(begin);
    num_segments_ = map_.RowHeadOf(end - 1) - first + 1;
    if (static_cast<int32_t>(threadIdx.x) < num_segments_) {
      shared->segments[threadIdx.x] = SegmentOf(args, map_, first + static_cast<int32_t>(threadIdx.x), begin, end);
    }
    __syncthreads();
  }

  // Scores every candidate by word 0 or by all words, and publishes the histograms.
  template <int kWords>
  __device__ void Score(const uint32_t* codes, int32_t* histograms, int num_bins) {
    // Codes of older tokens do not depend on the kernel before this one; the newest token's may, if it competes.
    if (args_.recent_tokens == 0) WaitForPrevious();
    UnitCursor cursor(args_, masks_, scores_);
    CodeStream<kWords> stream(codes, args_.num_kv_heads, scores_ + args_.score_bytes, args_.ring_bytes,
                              shared_->code_barriers[warp_]);
#pragma unroll 1
    for (int32_t s = 0; s < num_segments_; ++s) {
      const Segment& segment = shared_->segments[s];
      if (!segment.competes) continue;
#pragma unroll 1
      for (int32_t u = segment.begin + warp_; u < segment.end; u += kSparseWarps) {
        const Unit unit = cursor.At(segment, u, false);
        stream.Begin(segment.head, unit.pages, unit.page_stride, unit.num_pages, unit.resident_pages);
        WaitForPrevious();
        PlaneOperand<kWords> planes;
        LoadPlanes(segment.row_head, &planes);
        ScorePages(unit, segment.competition, planes, &stream, histogram_, num_bins);
      }
      Publish(segment, histograms, num_bins, kScored);
    }
  }

  // The two competitions that may follow: with the prefilter, for what is scored in full; then for what is attended to.
  template <class T, int kDim, int kHeadTiles>
  __device__ void Select() {
#pragma unroll 1
    for (int stage = args_.prefilter ? 0 : 1; stage < 2; ++stage) {
      const bool rescores = stage == 0;
      AgreeOnThresholds(rescores);
      UnitCursor cursor(args_, masks_, scores_);
#pragma unroll 1
      for (int32_t s = 0; s < num_segments_; ++s) {
        const Segment& segment = shared_->segments[s];
        if (!rescores) {
          MarkStage(1);
          AttendSegment<T, kDim, kHeadTiles>(segment, &cursor);
        } else if (segment.competes) {
          RescoreUnits(segment, CutOf(segment, kTied), &cursor);
          Publish(segment, args_.histogram, args_.num_bins, kRescored);
        }
      }
    }
  }

  // Outputs, one query head and slice of its dimensions at a time, wherever all units of its row have come.
  template <class T, int kDim, int kHeadTiles>
  __device__ void Combine(char* dynamic) {
    const int32_t group = args_.num_q_heads / args_.num_kv_heads;
    const int32_t heads = args_.num_rows * args_.num_q_heads;
    constexpr int kSlices = kDim / 32;
    const bool sliced = heads * kSlices <= 2 * static_cast<int32_t>(gridDim.x);
    const int32_t slices = sliced ? kSlices : 1;
    float* const weights = reinterpret_cast<float*>(dynamic);
    __syncthreads();
#pragma unroll 1
    for (int32_t task = blockIdx.x; task < heads * slices; task += gridDim.x) {
      const int32_t slice = task % slices, q_head = task / slices;
      const int32_t row_head = q_head / group, row = row_head / args_.num_kv_heads;
      const int32_t head = row_head % args_.num_kv_heads;
      const int32_t num_units = map_.UnitsOf(row);
      WaitBlock(Counter(row_head, kAttended), num_units);
      constexpr int kHeads = kHeadTiles * kTileHeads;
      const int64_t first = int64_t{map_.HeadBegin(row, head)} * kHeads + q_head % group;
      T* out = static_cast<T*>(args_.out) + int64_t{q_head} * kDim;
      if (sliced) {
        CombineHead<T, kDim, kSlices>(args_.partials + first * kDim, kHeads * kDim, args_.shifts + first,
                                      args_.sums + first, kHeads, num_units, slice, weights, &shared_->combine, out);
      } else {
        CombineHead<T, kDim, 1>(args_.partials + first * kDim, kHeads * kDim, args_.shifts + first, args_.sums + first,
                                kHeads, num_units, slice, weights, &shared_->combine, out);
      }
      ClearHistograms(row_head, (q_head % group) * slices + slice, group * slices);
      if (threadIdx.x == 0) shared_->ticket = atomicAdd(Counter(row_head, kCombined), 1);
      __syncthreads();
      if (shared_->ticket == static_cast<uint32_t>(group * slices) - 1) Finish(row, row_head);
    }
  }

  // Boundary 0 ends scoring, 1 the selection, 2 everything; as one block's clock reads them.
  __device__ void MarkStage(int boundary) {
    if (args_.stages == nullptr || blockIdx.x != 0 || threadIdx.x != 0 || boundary < next_stage_) return;
    const uint64_t now = Nanoseconds();
    double* const fields[] = {&args_.stages->score, &args_.stages->select, &args_.stages->attend};
    *fields[boundary] = 1e-9 * static_cast<double>(now - stage_begin_);
    stage_begin_ = now;
    next_stage_ = boundary + 1;
  }

 private:
  __device__ uint32_t* Counter(int32_t row_head, int counter) const {
    return args_.counters + int64_t{row_head} * kNumRowCounters + counter;
  }
  __device__ uint8_t* Ties(int32_t row_head) const {
    return args_.ties + int64_t{row_head} * args_.row_pages;
  }

  template <int kWords>
  __device__ void LoadPlanes(int32_t row_head, PlaneOperand<kWords>* planes) const {
    planes->Load(args_.planes + int64_t{row_head} * args_.num_planes * args_.hash_words, args_.hash_words,
                 args_.num_planes, args_.top_plane_weight);
  }

  __device__ void Publish(const Segment& segment, int32_t* histograms, int num_bins, int counter) {
    __syncthreads();
    PublishHistogram<kSparseThreads>(histogram_, num_bins, histograms + int64_t{segment.row_head} * num_bins);
    if (threadIdx.x == 0) histogram_[num_bins] = 0;  // tokens that do not compete
    ArriveBlock(Counter(segment.row_head, counter), segment.end - segment.begin);
  }

  // Every segment's threshold, once all its row's blocks have published; then the units' masks and counts of ties.
  __device__ void AgreeOnThresholds(bool rescores) {
    const int32_t* histograms = rescores ? args_.prefix_histogram : args_.histogram;
    const int num_bins = rescores ? args_.num_prefix_bins : args_.num_bins;
    const bool rescored = !rescores && args_.prefilter;
    UnitCursor cursor(args_, masks_, scores_);
#pragma unroll 1
    for (int32_t s = 0; s < num_segments_; ++s) {
      Segment* const segment = &shared_->segments[s];
      if (!segment->competes) continue;
      const int32_t wanted = segment->Wanted(rescores ? kPrefilterFactor : 1);
      WaitBlock(Counter(segment->row_head, rescored ? kRescored : kScored), segment->num_units);
      const Threshold threshold = FindThreshold<kSparseWarps>(histograms + int64_t{segment->row_head} * num_bins,
                                                              num_bins, wanted, &shared_->search);
#pragma unroll 1
      for (int32_t u = segment->begin + warp_; u < segment->end; u += kSparseWarps) {
        CompareWithThreshold(cursor.At(*segment, u, true), threshold.score, rescored, Ties(segment->row_head));
      }
      if (threshold.exceeded()) {
        ArriveBlock(Counter(segment->row_head, rescores ? kTied : kRetied), segment->end - segment->begin);
      }
      if (threadIdx.x == 0) segment->threshold = threshold;
    }
    __syncthreads();
  }

  // Waits for the counts of ties where they matter.
  __device__ Cut CutOf(const Segment& segment, int tied) {
    if (!segment.threshold.exceeded()) return {INT32_MAX, 0};
    WaitBlock(Counter(segment.row_head, tied), segment.num_units);
    return FindCut<kSparseWarps>(segment.threshold, Ties(segment.row_head), segment.num_pages, &shared_->search);
  }

  __device__ void RescoreUnits(const Segment& segment, const Cut& cut, UnitCursor* cursor) {
    switch (args_.hash_words) {
      case 1:
        return RescoreUnitsBy<1>(segment, cut, cursor);
      case 2:
        return RescoreUnitsBy<2>(segment, cut, cursor);
      case 4:
        return RescoreUnitsBy<4>(segment, cut, cursor);
      default:
        return RescoreUnitsBy<8>(segment, cut, cursor);
    }
  }
  template <int kWords>
  __device__ void RescoreUnitsBy(const Segment& segment, const Cut& cut, UnitCursor* cursor) {
    PlaneOperand<kWords> planes;
    LoadPlanes(segment.row_head, &planes);
#pragma unroll 1
    for (int32_t u = segment.begin + warp_; u < segment.end; u += kSparseWarps) {
      RescorePages(args_, cursor->At(segment, u, true), segment.head, planes, cut, queue_, histogram_);
    }
  }

  template <class T, int kDim, int kHeadTiles>
  __device__ void AttendSegment(const Segment& segment, UnitCursor* cursor) {
    using Warp = AttendWarp<T, kDim, kHeadTiles>;
    const int32_t group = args_.num_q_heads / args_.num_kv_heads;
    const T* q = static_cast<const T*>(args_.q) + int64_t{segment.row_head} * group * kDim;
    const T* kv = static_cast<const T*>(args_.kv);
    // Every num_units-th of the row's sinks and recent tokens is the unit's.
    const int32_t num_always = segment.competes ? segment.context_len - segment.competition.count : 0;
    // A unit attends to what is over the threshold, then to what ties: the first one of a warp while other blocks still
    // count their ties, the others in the same order, for the same bits.
    const bool ties_last = segment.threshold.exceeded();
    bool has_cut = !ties_last;
    Cut cut = {INT32_MAX, 0};
#pragma unroll 1
    for (int32_t u = segment.begin + warp_; u < segment.end || !has_cut; u += kSparseWarps) {
      const bool present = u < segment.end;
      Unit unit = {};
      if (present) unit = cursor->At(segment, u, true);
      Warp warp;
      warp.LoadQuery(q, group, args_.scale_log2);
      warp.Reset();
      WarpQueue queue(queue_);
      const auto key_of = [&](int i) {
        const int32_t token = queue[i];
        const int64_t head = int64_t{token / kPageTokens} * args_.num_kv_heads + segment.head;
        return kv + (head * kPageTokens + token % kPageTokens) * (2 * kDim);
      };
      GatherRing<T, kDim> ring(scores_, args_.score_bytes + args_.ring_bytes, shared_->gather_barriers[warp_],
                               &gather_phases_);
      TieList ties(reinterpret_cast<uint16_t*>(queue_ + kQueueEntries));
      bool last = !ties_last;
      int32_t always = present ? unit.index : num_always, groups = 0;
#pragma unroll 1
      while (true) {
#pragma unroll 1
        while (present) {
#pragma unroll 1
          for (; always < num_always && queue.size() < kTileTokens; always += 32 * segment.num_units) {
            AppendAlways(segment, always, num_always, &queue);
          }
#pragma unroll 1
          while (groups < NumGroups(unit) && queue.size() < kTileTokens) {
            groups += AppendChosen(segment, unit, groups, !ties_last || !last, last, cut, &queue, &ties);
          }
          const int32_t count = min(queue.size(), kTileTokens);
          if (!ring.full() && (count == kTileTokens || (last && count > 0))) {
            ring.Push(key_of, count);
            queue.Drop(count);
          } else if (ring.full() || (last && ring.size() > 0)) {
            ring.Pop(~0u, &warp);
          } else {
            break;
          }
        }
        if (last) break;
        // What is left and what ties, if it makes one tile, is fetched before it is known which of it counts.
        const int32_t left = queue.size();
        const bool guesses = present && left + ties.size() <= kTileTokens && left + ties.size() > 0;
        if (guesses) {
#pragma unroll 1
          for (int first = 0; first < ties.size(); first += 32) {
            AppendTie(segment, unit, ties.Entry(first), false, &queue);
          }
          ring.Push(key_of, queue.size());
          queue.Drop(queue.size());
        }
        if (!has_cut) cut = CutOf(segment, kRetied);
        has_cut = true;
        last = true;
        if (guesses) {
          const int32_t tie = ties.Chosen(0, unit, cut);
          if (args_.selected != nullptr) NoteTie(segment, unit, tie);
          const uint32_t counts = (1u << left) - 1 | __ballot_sync(~0u, tie >= 0) << left;
          while (ring.size() > 1) ring.Pop(~0u, &warp);
          ring.Pop(counts, &warp);
          break;
        }
        if (ties.overflowed()) {
          groups = 0;  // once more, for the ties alone
        } else {
#pragma unroll 1
          for (int first = 0; first < ties.size(); first += 32) {
            AppendTie(segment, unit, ties.Chosen(first, unit, cut), true, &queue);
          }
        }
      }
      if (!present) break;
      constexpr int kHeads = kHeadTiles * kTileHeads;
      const int64_t place = int64_t{u} * kHeads;
#pragma unroll
      for (int t = 0; t < kHeadTiles; ++t) {
        const int64_t head = place + t * kTileHeads;
        warp.Store(t, kDim, args_.partials + head * kDim, args_.shifts + head, args_.sums + head);
      }
      ArriveWarp(Counter(segment.row_head, kAttended), 1);
    }
  }

  // The chosen of kGroupsAtOnce groups of pages: those over the threshold, those within the cut, or both; what ties
  // goes to the list while there is no cut. Returns how many groups there was room for.
  __device__ int AppendChosen(const Segment& segment, const Unit& unit, int32_t groups, bool over, bool has_cut,
                              const Cut& cut, WarpQueue* queue, TieList* ties) const {
    uint32_t chosen = 0, tied = 0;
    if (segment.competes) {
      chosen = ChosenOfGroups(unit, groups, over, has_cut, cut, &tied);
    } else {
#pragma unroll 1
      for (int g = 0; g < kGroupsAtOnce; ++g) {
        chosen |= TokensBefore(unit, groups + g, segment.context_len) << 8 * g;
      }
    }
    const int fitting = GroupsThatFit(chosen, queue->room());
    if (fitting == 1) {
      chosen &= 0xff;
      tied &= 0xff;
    }
    if (args_.selected != nullptr) NoteChosen(segment, unit, groups, fitting, chosen, over);
    queue->AppendBits(chosen, [&](int bit) { return EntryOf(unit, LocalTokenOf(groups, bit)); });
    if (!has_cut && __any_sync(~0u, tied != 0)) {
      ties->AppendBits(tied, [&](int bit) { return LocalTokenOf(groups, bit); });
    }
    return fitting;
  }

  // Each lane's tied token, page * P + slot of the unit; -1: none.
  __device__ void AppendTie(const Segment& segment, const Unit& unit, int32_t local, bool chosen,
                            WarpQueue* queue) const {
    queue->AppendBits(local >= 0, [&](int) { return EntryOf(unit, local); });
    if (chosen && args_.selected != nullptr) NoteTie(segment, unit, local);
  }

  __device__ void NoteTie(const Segment& segment, const Unit& unit, int32_t local) const {
    if (local < 0) return;
    uint32_t* const words = reinterpret_cast<uint32_t*>(args_.chosen) +
                            (int64_t{segment.row_head} * args_.row_pages + unit.LogicalPage(local / kPageTokens)) * 2;
    atomicOr(words + local % kPageTokens / 32, 1u << local % 32);
  }

  // A token in the queue: page of the cache * P + slot.
  __device__ static int32_t EntryOf(const Unit& unit, int32_t local) {
    return unit.PageOf(local / kPageTokens) * kPageTokens + local % kPageTokens;
  }
  // Mask of this lane's octet of a group: tokens before `end`.
  __device__ static uint32_t TokensBefore(const Unit& unit, int32_t group, int32_t end) {
    const int32_t page = GroupPage(group);
    const int32_t count = end - unit.LogicalPage(page) * kPageTokens - OctetSlot();
    return page < unit.num_pages ? MaskOfTokens((1u << max(0, min(8, count))) - 1) : 0u;
  }

  // Keeps the candidates among the chosen for ListChosen: bits by token. The first time, or added to what is there.
  __device__ void NoteChosen(const Segment& segment, const Unit& unit, int32_t groups, int fitting, uint32_t chosen,
                             bool first) const {
    const Competition& competition = segment.competition;
#pragma unroll 1
    for (int g = 0; g < fitting; ++g) {
      const int32_t page = GroupPage(groups + g);
      if (page >= unit.num_pages) continue;
      uint32_t bits = 0;
      const int32_t token = unit.LogicalPage(page) * kPageTokens + OctetSlot() - competition.begin;
#pragma unroll 1
      for (int bit = 0; bit < 8; ++bit) {
        const bool candidate =
            competition.num_select > 0 && token + TokenOfBit(bit) >= 0 && token + TokenOfBit(bit) < competition.count;
        if (candidate && (chosen >> (8 * g + bit) & 1) != 0) bits |= 1u << TokenOfBit(bit);
      }
      uint8_t* out = args_.chosen +
                     (int64_t{segment.row_head} * args_.row_pages + unit.LogicalPage(page)) * kOctetsPerPage +
                     OctetSlot() / 8;
      *out = static_cast<uint8_t>(first ? bits : bits | *out);
    }
  }

  // Up to 32 sinks and recent tokens, counted together: `first` and every num_units-th after it.
  __device__ void AppendAlways(const Segment& segment, int32_t first, int32_t num_always, WarpQueue* queue) const {
    const int32_t i = first + static_cast<int32_t>(threadIdx.x % 32) * segment.num_units;
    const int32_t token = i < segment.competition.begin ? i : i + segment.competition.count;
    const int32_t* table = args_.page_table + int64_t{segment.row} * args_.max_pages;
    queue->AppendBits(i < num_always,
                      [&](int) { return table[token / kPageTokens] * kPageTokens + token % kPageTokens; });
  }

  // The task's share of the histograms, which everyone has read.
  __device__ void ClearHistograms(int32_t row_head, int32_t task, int32_t num_tasks) const {
#pragma unroll 1
    for (int bin = task * kSparseThreads + threadIdx.x; bin < args_.num_bins; bin += num_tasks * kSparseThreads) {
      args_.histogram[int64_t{row_head} * args_.num_bins + bin] = 0;
      if (args_.prefilter && bin < args_.num_prefix_bins) {
        args_.prefix_histogram[int64_t{row_head} * args_.num_prefix_bins + bin] = 0;
      }
    }
  }

  // By the last block that combines a row's head: lists the chosen, leaves the counters zero.
  __device__ void Finish(int32_t row, int32_t row_head) {
    const Competition competition =
        CompetitionOf(args_.context_len[row], args_.num_select[row], args_.sink_tokens, args_.recent_tokens);
    if (args_.selected != nullptr) ListChosen(row, row_head);
    if (args_.num_selected != nullptr && threadIdx.x == 0) args_.num_selected[row_head] = competition.num_select;
    if (threadIdx.x < kNumRowCounters) *Counter(row_head, threadIdx.x) = 0;
  }

  __device__ void ListChosen(int32_t row, int32_t row_head) {
    int32_t* out = args_.selected + int64_t{row_head} * args_.max_select;
    const uint64_t* chosen = reinterpret_cast<const uint64_t*>(args_.chosen) + int64_t{row_head} * args_.row_pages;
    const int32_t pages = NumPages(args_.context_len[row]);
    int32_t before = 0;
#pragma unroll 1
    for (int32_t first = 0; first < pages; first += kSparseThreads) {
      const int32_t page = first + static_cast<int32_t>(threadIdx.x);
      uint64_t bits = page < pages ? __ldcg(reinterpret_cast<const unsigned long long*>(chosen + page)) : 0;
      const int32_t count = __popcll(bits);
      const int32_t exclusive = BlockExclusiveSum<kSparseThreads>(count, shared_->search.sums);
      int32_t place = before + exclusive;
#pragma unroll 1
      for (; bits != 0; bits &= bits - 1, ++place) {
        if (place < args_.max_select) out[place] = page * kPageTokens + __ffsll(static_cast<long long>(bits)) - 1;
      }
      if (threadIdx.x == kSparseThreads - 1) shared_->ticket = before + exclusive + count;
      __syncthreads();
      before = static_cast<int32_t>(shared_->ticket);
      __syncthreads();
    }
#pragma unroll 1
    for (int32_t i = before + threadIdx.x; i < args_.max_select; i += kSparseThreads) out[i] = -1;
  }

  const SparseArgs& args_;
  SparseShared* const shared_;
  const int warp_;
  int32_t* const histogram_;
  int32_t* queue_;
  char *masks_, *scores_;
  UnitMap map_;
  int32_t num_segments_;
  uint64_t stage_begin_ = Nanoseconds();
  int next_stage_ = 0;
  uint32_t gather_phases_ = 0;
};

}  // namespace spotlight::kernels::cuda
