// How sparse_decode cuts a batch into launches, rows into runs of pages, and its workspace into parts. Host arithmetic,
// for any number of multiprocessors.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/layout.h"
#include "kernels/token_list.h"

namespace spotlight::kernels::cuda {

inline constexpr int kSparseWarpsLog2 = 3, kSparseWarps = 1 << kSparseWarpsLog2;
// A block's warps form 1, 2, 4 or 8 teams that take a run each: the logarithm of as many as there are runs, or the
// next.
SPOTLIGHT_HOST_DEVICE constexpr int TeamsLog2(int num_runs) {
  return num_runs > 4 ? 3 : num_runs > 2 ? 2 : num_runs > 1 ? 1 : 0;
}
// Fewest runs of a block whose warps take them alone, if there are registers.
inline constexpr int kMinRunsAlone = 5;
// Fewest pages of a run, where a row has more than one; and the most: 16 bits name a token of a run.
inline constexpr int kMinRunPages = 64, kMaxRunPages = 1023;
// Rows of one launch.
inline constexpr int kMaxLaunchRows = 64;
// Runs of a block, save in a launch of one row.
inline constexpr int kMaxBlockRuns = 32;
// Partial results are stored for a multiple of so many query heads.
inline constexpr int kHeadMultiple = 8;

// Counters of one (row, KV head): runs, or outputs, that have come so far. All are zero between launches.
enum RowCounter { kScored, kRescored, kListed, kAttended, kCombined, kNumRowCounters = 8 };

SPOTLIGHT_HOST_DEVICE constexpr int32_t NumPages(int32_t context_len) {
  return (context_len + kPageTokens - 1) / kPageTokens;
}

// Runs of each (row, KV head): a function of the row's length.
SPOTLIGHT_HOST_DEVICE constexpr int32_t NumRuns(int32_t context_len, int32_t max_runs) {
  const int32_t pages = NumPages(context_len), least = (pages + kMaxRunPages - 1) / kMaxRunPages;
  const int32_t runs = pages / kMinRunPages < max_runs ? pages / kMinRunPages : max_runs;
  return runs > least ? runs : (least > 1 ? least : 1);
}

// Most runs of a (row, KV head), if not for kMaxRunPages: one sequence fills the device.
int32_t MaxRuns(int32_t num_sms, int32_t num_kv_heads);

// Pages of the longest row, to a multiple of 16: the stride of what the workspace holds for each page.
int32_t RowPages(int32_t max_context);

// Scores that `num_bins` can take, as stored: to a multiple of 16 bytes of counts.
SPOTLIGHT_HOST_DEVICE constexpr int32_t BinStride(int32_t num_bins) {
  return (num_bins + 3) / 4 * 4;
}

// Rows that one launch takes.
int32_t LaunchRows(int32_t num_rows, int32_t max_context, int32_t num_kv_heads, int32_t num_sms);

// Byte offsets, and the whole. What must be zero comes first, in a place that no shape of a call changes.
struct SparseWorkspace {
  size_t counters, prefix_histogram, histogram, prefix_columns, columns, scores, lists, partials, shifts, sums, total;
};

// Never less for more rows or a longer context: what is allocated for the largest call serves every smaller one.
SparseWorkspace SparseWorkspaceOf(int32_t max_rows, int32_t max_context, int32_t num_q_heads, int32_t num_kv_heads,
                                  int32_t head_dim, int32_t num_sms);

}  // namespace spotlight::kernels::cuda
