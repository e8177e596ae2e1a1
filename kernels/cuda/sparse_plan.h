// How sparse_decode cuts a batch into launches, rows into units, and its workspace into parts. Host arithmetic, for any
// number of multiprocessors.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/layout.h"
#include "kernels/token_list.h"

namespace spotlight::kernels::cuda {

inline constexpr int kSparseWarps = 8;
// Fewest pages of a unit, where a row has more than one.
inline constexpr int kMinUnitPages = 16;
// Rows of one launch.
inline constexpr int kMaxLaunchRows = 64;
// Partial results are stored for a multiple of so many query heads.
inline constexpr int kHeadMultiple = 8;
// (row, KV head)s that one block may have a share of.
inline constexpr int kMaxSegments = 64;

// Counters of one (row, KV head): units that have come so far. All are zero between launches.
enum RowCounter { kScored, kTied, kRescored, kRetied, kAttended, kCombined, kNumRowCounters = 8 };

SPOTLIGHT_HOST_DEVICE constexpr int32_t NumPages(int32_t context_len) {
  return (context_len + kPageTokens - 1) / kPageTokens;
}

SPOTLIGHT_HOST_DEVICE constexpr int32_t NumUnits(int32_t context_len, int32_t max_units) {
  const int32_t units = NumPages(context_len) / kMinUnitPages;
  return units < 1 ? 1 : (units > max_units ? max_units : units);
}

// Most units of a (row, KV head).
int32_t MaxUnits(int32_t num_sms, int32_t num_kv_heads);

// Pages of the longest row, to a multiple of 16: the stride of what the workspace holds for each page.
int32_t RowPages(int32_t max_context);

// Rows that one launch takes.
int32_t LaunchRows(int32_t num_rows, int32_t max_context, int32_t num_kv_heads, int32_t num_sms);

// Byte offsets, and the whole. What must be zero comes first, in a place that no shape of a call changes.
struct SparseWorkspace {
  size_t counters, prefix_histogram, histogram, ties, scores, masks, chosen, partials, shifts, sums, total;
};

// Never less for more rows or a longer context: what is allocated for the largest call serves every smaller one.
SparseWorkspace SparseWorkspaceOf(int32_t max_rows, int32_t max_context, int32_t num_q_heads, int32_t num_kv_heads,
                                  int32_t head_dim, int32_t num_sms);

}  // namespace spotlight::kernels::cuda
