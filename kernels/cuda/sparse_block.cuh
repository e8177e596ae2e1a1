// What one block does in each stage of sparse_decode.
#pragma once

#include <cstdint>

#include "kernels/cuda/agreement.cuh"
#include "kernels/cuda/attend_runs.cuh"
#include "kernels/cuda/clock.cuh"
#include "kernels/cuda/combine_runs.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/run_tokens.cuh"
#include "kernels/cuda/runs.cuh"
#include "kernels/cuda/sparse_args.cuh"

namespace spotlight::kernels::cuda {

struct SparseShared {
  RowsShared rows;
  int32_t warp_sums[kSparseWarps * kSparseWarps];
  AttendShared attend;
  uint64_t code_barriers[kSparseWarps][kCodeStages];
};

// Entries of sinks and recent tokens that are looked up ahead.
inline constexpr int kEarlyAlways = 256;
inline constexpr int kAlwaysBytes = kEarlyAlways * 4;

// Which scores a competition is about.
enum class Scoring { kPrefix, kFull, kRescored };

// A block's part of one launch. kManyRuns: most blocks have so many runs that warps take them alone.
template <bool kManyRuns>
class SparseBlock {
 public:
  __device__ SparseBlock(const SparseArgs& args, char* dynamic, SparseShared* shared)
      : args_(args),
        shared_(shared),
        runs_(reinterpret_cast<Run*>(dynamic)),
        entries_(reinterpret_cast<int32_t*>(dynamic + args.run_bytes)),
        counting_(dynamic + args.run_bytes + args.entry_bytes),
        always_(reinterpret_cast<int32_t*>(counting_ + args.counting_bytes)),
        scores_(reinterpret_cast<uint16_t*>(always_ + kEarlyAlways)),
        pages_(reinterpret_cast<int32_t*>(scores_ + args.score_pages * kPageTokens)),
        ring_(reinterpret_cast<char*>(scores_) + args.score_pages * kScoredPageBytes +
              threadIdx.x / 32 * args.ring_bytes),
        publisher_(reinterpret_cast<int32_t*>(counting_), args.histogram_bytes, shared->warp_sums) {
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x % 32 == 0) {
      for (uint64_t& barrier : shared->code_barriers[threadIdx.x / 32]) InitBarrier(&barrier);
      for (uint64_t& barrier : shared->attend.barriers[threadIdx.x / 32]) InitBarrier(&barrier);
      FenceBarrierInit();
    }
#endif
    // Histograms, which need not wait for the runs.
#pragma unroll 1
    for (int i = threadIdx.x; i < args.counting_bytes / 16; i += kSparseThreads) {
      reinterpret_cast<int4*>(counting_)[i] = make_int4(0, 0, 0, 0);
    }
    map_.Build(args, &shared->rows);
    const Share own = map_.BlockRuns();
    num_runs_ = own.size;
    teams_ = Teams(num_runs_, args.max_teams_log2);
    if (static_cast<int32_t>(threadIdx.x) < num_runs_) {
      Run run = map_.RunOf(args, own.begin + static_cast<int32_t>(threadIdx.x));
      run.team_warps_log2 = teams_.warps_log2;
      runs_[threadIdx.x] = run;
    }
    __syncthreads();
    PrefetchPageTable();
    if (threadIdx.x == 0) {
      int32_t pages = 0, always = 0;
      for (int s = 0; s < num_runs_; ++s) {
        Run& run = runs_[s];
        run.first_always = run.num_always <= kSparseThreads && always + run.num_always <= kEarlyAlways ? always : -1;
        if (run.first_always >= 0) always += run.num_always;
        const bool fits = run.competes && pages + run.num_pages <= args.score_pages;
        run.score_page = fits ? pages : -1;
        if (fits) pages += run.num_pages;
      }
    }
    __syncthreads();
  }

  // Scores every candidate by word 0 or by all words, and publishes the histograms.
  template <int kWords>
  __device__ void Score(const uint32_t* codes, Scoring scoring) {
    // Codes of older tokens do not depend on the kernel before this one; the newest token's may, if it competes.
    if (args_.recent_tokens == 0) WaitForPrevious();
    CodeStream<kWords> stream(args_, codes, runs_, num_runs_, teams_, ring_, pages_,
                              shared_->code_barriers[threadIdx.x / 32], &code_phases_);
    if (args_.num_prefetch_pages > 0) stream.Prefetch(args_.num_prefetch_pages);
    LookUpAlways();
    WaitForPrevious();
    BeginStages();
    PlaneOperand<kWords> planes;
    int32_t row_head = -1;
    int part = 0;
#pragma unroll 1
    for (int first = 0; first < num_runs_; first += teams_.count) {
      if (first > 0) StartOver();
      Run* const run = OwnRun(first);
      const bool competes = run != nullptr && run->competes;
      if (competes) {
        if (run->row_head != row_head) LoadPlanes(run->row_head, &planes);
        row_head = run->row_head;
        uint16_t* const scores = ScoresOf(args_, *run, scores_);
        int32_t* const histogram = publisher_.histogram(teams_.own());
        ScoreRun(*run, planes, &stream, &part, scores, histogram, NumBins(scoring));
      }
      Publish(first, scoring);
      publisher_.Complete();
    }
  }

  // With the prefilter: scores in full what its cut leaves.
  __device__ void Rescore() {
    Agree(Scoring::kPrefix);
    StartOver();
    switch (args_.hash_words) {
      case 1:
        RescoreBy<1>();
        break;
      case 2:
        RescoreBy<2>();
        break;
      case 4:
        RescoreBy<4>();
        break;
      default:
        RescoreBy<8>();
    }
  }

  // Finds the chosen tokens, and who attends to them: their entries, or the lists of runs. Synchronises.
  __device__ void Choose(int32_t max_sharing_runs) {
    Agree(args_.prefilter ? Scoring::kRescored : Scoring::kFull);
    if (kManyRuns && teams_.warps_log2 == 0) {
      PlaceAlone(max_sharing_runs);
    } else {
      PlaceTogether(max_sharing_runs);
    }
#if __CUDA_ARCH__ >= 900
    FenceForBulkCopies();
#endif
    __syncthreads();
#pragma unroll 1
    for (int s = threadIdx.x; s < num_runs_; s += kSparseThreads) {
      if (runs_[s].source == RunSource::kShared) ArriveThread(Counter(runs_[s].row_head, kListed), 1);
    }
  }

  template <class T, int kDim, int kHeadTiles>
  __device__ void Attend() {
    using Attention = RunAttention<T, kDim, kHeadTiles, kManyRuns>;
    uint32_t phases = 0;
    Attention attention(args_, runs_, num_runs_, entries_, reinterpret_cast<char*>(entries_ + kMaxEntries),
                        &shared_->attend, &phases);
    attention.Prepare();
    Choose(Attention::kMaxSharingRuns);
    MarkStage(1);
    attention.AttendToAll();
  }

  // Outputs, a warp a part of a query head's dimensions, wherever all runs of its row have come: small parts while
  // every warp has one at most, as what they take is the way to memory and back.
  template <class T, int kDim, int kHeadTiles>
  __device__ void Combine() {
    const int32_t small_parts = args_.num_rows * args_.num_q_heads * (kDim / kCombinedDims);
    if (small_parts <= static_cast<int32_t>(gridDim.x) * kSparseWarps) {
      CombineBy<1, T, kDim, kHeadTiles>();
    } else {
      CombineBy<4, T, kDim, kHeadTiles>();
    }
  }
  template <int kWide, class T, int kDim, int kHeadTiles>
  __device__ void CombineBy() {
    constexpr int kHeads = kHeadTiles * kTileHeads, kDims = kWide * kCombinedDims, kParts = kDim / kDims;
    const int32_t group = args_.num_q_heads / args_.num_kv_heads, row_tasks = group * kParts;
    const int32_t num_tasks = args_.num_rows * args_.num_q_heads * kParts;
    const int32_t step = static_cast<int32_t>(gridDim.x) * kSparseWarps;
#pragma unroll 1
    for (int32_t task = blockIdx.x + gridDim.x * (threadIdx.x / 32); task < num_tasks; task += step) {
      const int32_t q_head = task / kParts, dim = task % kParts * kDims;
      const int32_t row_head = q_head / group, row = row_head / args_.num_kv_heads;
      const int32_t row_task = task - row_head * row_tasks;
      const int32_t num_runs = map_.RunsOf(row);
      const int64_t first =
          int64_t{map_.HeadBegin(row, row_head % args_.num_kv_heads)} * kHeads + q_head - row_head * group;
      WaitWarp(Counter(row_head, kAttended), num_runs);
      int32_t ticket = 0;
      if (threadIdx.x % 32 == 0) ticket = static_cast<int32_t>(atomicAdd(Counter(row_head, kCombined), 1));
      CombineRuns<kWide>(args_.partials + first * kDim + dim, kHeads * kDim, args_.shifts + first, args_.sums + first,
                         kHeads, num_runs, static_cast<Compute<T>*>(args_.out) + int64_t{q_head} * kDim + dim);
      ClearHistograms(row_head, row_task, row_tasks);
      if (__shfl_sync(~0u, ticket, 0) == row_tasks - 1) Finish(row, row_head);
    }
  }

  // Boundary 0 ends scoring, 1 the selection, 2 everything; as one block's clock reads them.
  __device__ void MarkStage(int boundary) {
    if (!KeepsTime()) return;
    const uint64_t now = Nanoseconds();
    double* const fields[] = {&args_.stages->score, &args_.stages->select, &args_.stages->attend};
    const double before = args_.adds_stages ? *fields[boundary] : 0.0;
    *fields[boundary] = before + 1e-9 * static_cast<double>(now - stage_begin_);
    if (boundary == 2) args_.stages->end_ns = now;
    stage_begin_ = now;
  }

 private:
  __device__ bool KeepsTime() const {
    return args_.stages != nullptr && blockIdx.x == 0 && threadIdx.x == 0;
  }
  // The kernel before has ended.
  __device__ void BeginStages() {
    if (!KeepsTime()) return;
    stage_begin_ = Nanoseconds();
    if (!args_.adds_stages) args_.stages->begin_ns = stage_begin_;
  }

  __device__ uint32_t* Counter(int32_t row_head, int counter) const {
    return args_.counters + int64_t{row_head} * kNumRowCounters + counter;
  }
  __device__ int32_t NumBins(Scoring scoring) const {
    return scoring == Scoring::kPrefix ? args_.num_prefix_bins : args_.num_bins;
  }
  __device__ int32_t* RowSums(Scoring scoring, int32_t row_head) const {
    return (scoring == Scoring::kPrefix ? args_.prefix_histogram : args_.histogram) +
           int64_t{row_head} * BinStride(NumBins(scoring));
  }
  __device__ int32_t* Column(Scoring scoring, int32_t run) const {
    return (scoring == Scoring::kPrefix ? args_.prefix_columns : args_.columns) +
           int64_t{run} * BinStride(NumBins(scoring));
  }

  template <int kWords>
  __device__ void LoadPlanes(int32_t row_head, PlaneOperand<kWords>* planes) const {
    planes->Load(args_.planes + int64_t{row_head} * args_.num_planes * args_.hash_words, args_.hash_words,
                 args_.num_planes, args_.top_plane_weight);
  }

  // The team's run of those from `first` on, one for each team; null: none.
  __device__ Run* OwnRun(int first) const {
    const int s = first + teams_.own();
    return s < num_runs_ ? runs_ + s : nullptr;
  }
  // The first numbers of the warp's pages.
  __device__ void PrefetchPageTable() const {
    const Run* const run = OwnRun(0);
    if (run == nullptr || threadIdx.x % 32 != 0) return;
    PrefetchLine(PageTableOf(args_, *run) + run->first_page + run->WarpPages().begin);
  }
  // Before teams count again.
  __device__ void StartOver() {
    publisher_.Clear(min(teams_.count, num_runs_));
  }
  // The teams' runs from `first` on have been scored: warp w publishes team w's.
  __device__ void Publish(int first, Scoring scoring) {
    const int count = min(teams_.count, num_runs_ - first), warp = threadIdx.x / 32;
    const bool marked = scoring != Scoring::kPrefix;
    if (!kManyRuns || teams_.warps_log2 > 0) {
      publisher_.SumUp(runs_ + first, count, marked);
    } else if (warp < count) {
      publisher_.SumUpAlone(warp, runs_ + first + warp, marked);
    }
    if (warp >= count || !runs_[first + warp].competes) return;
    const Run& run = runs_[first + warp];
    publisher_.Publish(warp, BinStride(NumBins(scoring)), RowSums(scoring, run.row_head),
                       Column(scoring, run.in_launch),
                       Counter(run.row_head, scoring == Scoring::kRescored ? kRescored : kScored));
  }
  // Every run's cut, ties and place, once all its row's runs have been published: by the first warp of the run's team.
  // And its warps' counts. The block must synchronise before it reads what others found.
  __device__ void Agree(Scoring scoring) {
    const int32_t num_bins = NumBins(scoring), stride = BinStride(num_bins);
    if (teams_.thread() < 32) {
      int32_t row_head = -1;
      Cut cut = {};
#pragma unroll 1
      for (int s = teams_.own(); s < num_runs_; s += teams_.count) {
        Run* const run = runs_ + s;
        if (!run->competes) continue;
        if (run->row_head != row_head) {
          row_head = run->row_head;
          WaitWarp(Counter(row_head, scoring == Scoring::kRescored ? kRescored : kScored), run->num_runs);
          cut = FindCut(RowSums(scoring, row_head), num_bins,
                        run->Wanted(scoring == Scoring::kPrefix ? kPrefilterFactor : 1), run->likely);
        }
        ColumnsAtCut(Column(scoring, run->in_launch - run->index), stride, run->num_runs, cut)
            .ShareOut(run, run->index, 1, nullptr);
      }
    }
    if (teams_.warps_log2 > 0) {
      __syncthreads();
    } else {
      __syncwarp();
    }
#pragma unroll 1
    for (int s = teams_.own(); s < num_runs_; s += teams_.count) {
      if (runs_[s].competes) Count(&runs_[s], ScoresOf(args_, runs_[s], scores_), scoring != Scoring::kPrefix);
    }
  }

  template <int kWords>
  __device__ void RescoreBy() {
    PlaneOperand<kWords> planes;
#pragma unroll 1
    for (int first = 0; first < num_runs_; first += teams_.count) {
      if (first > 0) StartOver();
      Run* const run = OwnRun(first);
      const bool competes = run != nullptr && run->competes;
      if (competes) {
        LoadPlanes(run->row_head, &planes);
        RescoreRun(args_, *run, planes, BeforeWarp(*run).ties, PagesOf(args_, *run, pages_),
                   ScoresOf(args_, *run, scores_), reinterpret_cast<uint16_t*>(ring_),
                   publisher_.histogram(teams_.own()), args_.num_bins);
      }
      Publish(first, Scoring::kRescored);
      publisher_.Complete();
    }
  }

  // Entries of sinks and recent tokens, looked up while there is time.
  __device__ void LookUpAlways() {
#pragma unroll 1
    for (int s = 0; s < num_runs_; ++s) {
      const Run& run = runs_[s];
      const int32_t i = static_cast<int32_t>(threadIdx.x);
      if (run.first_always < 0 || i >= run.num_always) continue;
      always_[run.first_always + i] = EntryOf(PageTableOf(args_, run), run.AlwaysToken(i));
    }
  }

  // The warp's chosen tokens of a run go where they will be looked for.
  __device__ void PlaceChosen(const Run& run, RunSource source, int32_t first_entry) const {
    if (source == RunSource::kAll) return;
    int32_t* const entries = entries_ + first_entry;
    const int32_t* const pages = PagesOf(args_, run, pages_);
    const int32_t first_token = run.first_page * kPageTokens, always = run.num_always;
    uint16_t* const list = args_.lists + (int64_t{run.row_head} * args_.row_pages + run.first_page) * kPageTokens;
    int32_t* const selected =
        args_.selected == nullptr ? nullptr : args_.selected + int64_t{run.row_head} * args_.max_select + run.place;
    ForChosen(run, ScoresOf(args_, run, scores_), [&](int32_t token, int32_t place) {
      if (source == RunSource::kEntries) {
        entries[always + place] = EntryOf(pages, token);
      } else {
        list[place] = static_cast<uint16_t>(token);
      }
      if (selected != nullptr && run.place + place < args_.max_select) selected[place] = first_token + token;
    });
    if (source != RunSource::kEntries) return;
#pragma unroll 1
    for (int32_t i = teams_.thread(); i < always; i += teams_.threads()) {
      entries[i] =
          run.first_always >= 0 ? always_[run.first_always + i] : EntryOf(PageTableOf(args_, run), run.AlwaysToken(i));
    }
  }

  // Where a competing run's tokens go if there is room for them among the block's entries.
  __device__ static RunSource SourceOf(const Run& run, int32_t max_sharing_runs) {
    const bool uneven = run.num_runs <= max_sharing_runs && run.most_chosen > run.MostEven();
    return uneven ? RunSource::kShared : RunSource::kEntries;
  }

  // The warp's own runs, in its share of the entries. Other warps may still be scoring.
  __device__ void PlaceAlone(int32_t max_sharing_runs) const {
    constexpr int32_t kShare = kMaxEntries / kSparseWarps;
    int32_t entry = static_cast<int32_t>(threadIdx.x / 32) * kShare;
    const int32_t end = entry + kShare;
#pragma unroll 1
    for (int s = teams_.own(); s < num_runs_; s += teams_.count) {
      Run* const run = runs_ + s;
      if (!run->competes) continue;
      __syncwarp();
      const int32_t size = run->num_always + run->num_chosen;
      RunSource source = SourceOf(*run, max_sharing_runs);
      if (source == RunSource::kEntries && entry + size > end) source = RunSource::kList;
      PlaceChosen(*run, source, entry);
      if (threadIdx.x % 32 == 0) {
        run->source = source;
        run->first_entry = entry;
      }
      if (source == RunSource::kEntries) entry += size;
    }
  }

  // All the block's runs, in order.
  __device__ void PlaceTogether(int32_t max_sharing_runs) const {
    __syncthreads();
    const int lane = threadIdx.x % 32;
    int32_t entries = 0;
#pragma unroll 1
    for (int first = 0; first < num_runs_; first += 32) {
      Run* const own = runs_ + first + lane;
      int32_t size = 0;
      RunSource source = RunSource::kAll;
      if (first + lane < num_runs_ && own->competes) {
        source = SourceOf(*own, max_sharing_runs);
        if (source == RunSource::kEntries) size = own->num_always + own->num_chosen;
      }
      const int32_t inclusive = WarpInclusiveSum(size);
      if (source == RunSource::kEntries && entries + inclusive > kMaxEntries) source = RunSource::kList;
      const int32_t first_entry = entries + inclusive - size;
#pragma unroll 1
      for (int s = teams_.own(); s < min(32, num_runs_ - first); s += teams_.count) {
        PlaceChosen(runs_[first + s], static_cast<RunSource>(__shfl_sync(~0u, static_cast<int>(source), s)),
                    __shfl_sync(~0u, first_entry, s));
      }
      entries += __shfl_sync(~0u, inclusive, 31);
      if (threadIdx.x < 32 && first + lane < num_runs_) {
        own->source = source;
        own->first_entry = first_entry;
      }
    }
  }

  // The task's share of the histograms, which everyone has read.
  __device__ void ClearHistograms(int32_t row_head, int32_t task, int32_t num_tasks) const {
    const auto clear = [&](Scoring scoring) {
      int32_t* const sums = RowSums(scoring, row_head);
#pragma unroll 1
      for (int bin = task * 32 + threadIdx.x % 32; bin < BinStride(NumBins(scoring)); bin += num_tasks * 32) {
        sums[bin] = 0;
      }
    };
    clear(Scoring::kFull);
    if (args_.prefilter) clear(Scoring::kPrefix);
  }

  // By the last warp that combines a row's head, when all others know that they may: what no run writes of `selected`;
  // counters become zero.
  __device__ void Finish(int32_t row, int32_t row_head) {
    const int32_t context_len = args_.context_len[row];
    const Competition competition =
        CompetitionOf(context_len, args_.num_select[row], args_.sink_tokens, args_.recent_tokens);
    const int32_t num_select = competition.num_select;
    if (args_.selected != nullptr) {
      int32_t* const out = args_.selected + int64_t{row_head} * args_.max_select;
#pragma unroll 1
      for (int32_t i = (num_select < competition.count ? num_select : 0) + threadIdx.x % 32; i < args_.max_select;
           i += 32) {
        out[i] = i < num_select ? competition.begin + i : -1;
      }
    }
    if (args_.num_selected != nullptr && threadIdx.x % 32 == 0) args_.num_selected[row_head] = num_select;
    if (threadIdx.x % 32 < kNumRowCounters) *Counter(row_head, threadIdx.x % 32) = 0;
  }

  const SparseArgs& args_;
  SparseShared* const shared_;
  Run* const runs_;
  int32_t* const entries_;
  char* const counting_;  // histograms
  int32_t* const always_;
  uint16_t* const scores_;
  int32_t* const pages_;
  char* const ring_;
  Publisher publisher_;
  RunMap map_;
  int32_t num_runs_;
  Teams teams_;
  uint32_t code_phases_ = 0;
  uint64_t stage_begin_ = 0;
};

}  // namespace spotlight::kernels::cuda
