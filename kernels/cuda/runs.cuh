// How sparse_decode shares out a batch: the pages of each (row, KV head) are cut into runs of neighbours, and the
// blocks of the grid take equal numbers of runs, one after another. The cut depends on the row's own length only, and a
// run is scored, cut and attended to as a whole, so results do not depend on who does it.
#pragma once

#include <cstdint>

#include "kernels/cuda/ordered_sums.cuh"
#include "kernels/cuda/sparse_args.cuh"
#include "kernels/token_list.h"

namespace spotlight::kernels::cuda {

// The warps of a block in teams of equal size, a power of two: a run's codes are scored, and its tokens found, by one.
// With one run in the block all warps are one team; with eight or more, where there is memory, a warp is.
struct Teams {
  int count, warps_log2;  // teams, and warps of each
  __device__ Teams(int num_runs, int max_teams_log2)
      : warps_log2(kSparseWarpsLog2 - min(max_teams_log2, TeamsLog2(num_runs))) {
    count = 1 << (kSparseWarpsLog2 - warps_log2);
  }
  __device__ Teams() = default;
  __device__ int own() const { return static_cast<int>(threadIdx.x / 32) >> warps_log2; }
  // Of this thread in its team, and of the warp.
  __device__ int thread() const { return static_cast<int>(threadIdx.x) & (threads() - 1); }
  __device__ int threads() const { return 32 << warps_log2; }
};

// A part of a sequence of `count` things in `parts` nearly equal parts.
struct Share {
  int32_t begin, size;
};
__device__ inline Share ShareOf(int32_t count, int32_t parts, int32_t part) {
  const int32_t each = count / parts, extra = count - each * parts;
  return {part * each + min(part, extra), each + (part < extra)};
}

// Of a row: what is under `score` is chosen, and the first ties_wanted of what equals it.
struct Cut {
  int32_t score, ties_wanted;
};

// Where the tokens of a run that are attended to come from.
enum class RunSource : int32_t {
  kEntries,  // places in shared memory
  kList,     // the run's list in global memory
  kShared,   // its share of the lists of all the row's runs
  kAll,      // everything in the run
};

// A run that the block owns, and what is known of its row.
struct Run {
  int32_t row, head, row_head;
  int32_t index, num_runs;  // of the (row, KV head)
  int32_t in_launch;        // of all runs
  int32_t context_len, row_pages;
  int32_t first_page, num_pages;
  Competition competition;
  int32_t num_always;  // sinks and recent tokens, counted together, that the run attends to: every num_runs-th
  int32_t average;     // of the chosen of the row's runs
  bool competes;       // false: the row attends to everything
  int32_t score_page;  // where its scores lie in shared memory; < 0: in global memory

  // Of the latest competition. Scores are stored as the distance from the highest one.
  Cut cut;
  int32_t ties_allowed;                    // of those that equal the cut
  int32_t num_chosen, place, most_chosen;  // how many; how many the runs before have; the most that any run has
  int32_t likely;                          // what the cut may be, by the run's own sums
  RunSource source;
  int32_t first_entry, first_always;  // < 0: not looked up ahead
  // Tokens under the cut, and 2^16 times those that equal it, of each warp's pages: the team's warps.
  uint32_t counts[kSparseWarps];
  int32_t team_warps_log2;

  // This warp's pages, counted within the run.
  __device__ Share WarpPages() const {
    const int32_t each = num_pages >> team_warps_log2, extra = num_pages - (each << team_warps_log2), warp = TeamWarp();
    return {warp * each + min(warp, extra), each + (warp < extra)};
  }
  __device__ int32_t TeamWarp() const { return static_cast<int32_t>(threadIdx.x / 32) & ((1 << team_warps_log2) - 1); }
  __device__ int32_t AlwaysToken(int32_t i) const {
    const int32_t at = index + i * num_runs;
    return at < competition.begin ? at : at + competition.count;
  }
  // The most chosen that a run of an even row has.
  __device__ int32_t MostEven() const { return average + average / 8 + 64; }
  // Candidates that the competition for `factor` times K keeps.
  __device__ int32_t Wanted(int32_t factor) const {
    return static_cast<int32_t>(min(int64_t{factor} * competition.num_select, int64_t{competition.count}));
  }
};

// What all blocks know of a launch's rows.
struct RowsShared {
  int32_t run_begin[kMaxLaunchRows + 1];  // of the launch's runs, a row's first
  int32_t context_len[kMaxLaunchRows], num_select[kMaxLaunchRows];
};

// The runs of a launch in order of row, head, page.
class RunMap {
 public:
  // shared: kept. Every thread of the block calls; synchronises.
  __device__ void Build(const SparseArgs& args, RowsShared* shared) {
    rows_ = shared;
    int32_t* const begin = shared->run_begin;
    num_rows_ = args.num_rows;
    num_heads_ = args.num_kv_heads;
    if (threadIdx.x < 32) {
      int32_t before = 0;
      for (int32_t first = 0; first < num_rows_; first += 32) {
        const int32_t row = first + static_cast<int32_t>(threadIdx.x);
        const int32_t context_len = row < num_rows_ ? args.context_len[row] : 0;
        const int32_t num_select = row < num_rows_ ? args.num_select[row] : 0;
        const int32_t runs = row < num_rows_ ? num_heads_ * NumRuns(context_len, args.max_runs) : 0;
        const int32_t inclusive = WarpInclusiveSum(runs);
        if (row < num_rows_) {
          begin[row + 1] = before + inclusive;
          shared->context_len[row] = context_len;
          shared->num_select[row] = num_select;
        }
        before += __shfl_sync(~0u, inclusive, 31);
      }
      if (threadIdx.x == 0) begin[0] = 0;
    }
    __syncthreads();
  }

  __device__ Share BlockRuns() const { return ShareOf(Begin(num_rows_), gridDim.x, blockIdx.x); }
  // Runs of one (row, head), and the first of them.
  __device__ int32_t RunsOf(int32_t row) const { return (Begin(row + 1) - Begin(row)) / num_heads_; }
  __device__ int32_t HeadBegin(int32_t row, int32_t head) const { return Begin(row) + head * RunsOf(row); }

  __device__ Run RunOf(const SparseArgs& args, int32_t in_launch) const {
    Run run;
    int32_t low = 0, high = num_rows_ - 1;
    while (low < high) {
      const int32_t middle = (low + high + 1) / 2;
      if (Begin(middle) <= in_launch) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    run.row = low;
    run.in_launch = in_launch;
    run.context_len = rows_->context_len[low];
    const int32_t num_select = rows_->num_select[low];
    run.num_runs = RunsOf(low);
    run.head = (in_launch - Begin(low)) / run.num_runs;
    run.index = in_launch - Begin(low) - run.head * run.num_runs;
    run.row_head = low * num_heads_ + run.head;
    run.row_pages = NumPages(run.context_len);
    const Share pages = ShareOf(run.row_pages, run.num_runs, run.index);
    run.first_page = pages.begin;
    run.num_pages = pages.size;
    run.competition = CompetitionOf(run.context_len, num_select, args.sink_tokens, args.recent_tokens);
    run.competes = run.competition.num_select > 0 && run.competition.num_select < run.competition.count;
    const int32_t all_always = run.competes ? run.context_len - run.competition.count : 0;
    run.num_always = max(0, (all_always - run.index + run.num_runs - 1) / run.num_runs);
    run.average = run.competition.num_select / run.num_runs;
    run.likely = 0;
    run.num_chosen = 0;
    run.source = RunSource::kAll;
    return run;
  }

 private:
  __device__ int32_t Begin(int32_t row) const { return rows_->run_begin[row]; }

  const RowsShared* rows_;
  int32_t num_rows_, num_heads_;
};

}  // namespace spotlight::kernels::cuda
