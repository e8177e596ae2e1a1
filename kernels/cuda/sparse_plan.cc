#include "kernels/cuda/sparse_plan.h"

#include <algorithm>

namespace spotlight::kernels::cuda {
namespace {

constexpr int32_t kMaxLaunchRowHeads = 512;
constexpr int64_t kMaxLaunchTokens = int64_t{8} << 20;
// Rows of kMaxLaunchTokens tokens in all, each rounded up as RowPages does.
constexpr int64_t kMaxLaunchPages = kMaxLaunchTokens / kPageTokens + 16 * kMaxLaunchRows;
constexpr int32_t kMaxWeight = (1 << kMaxPlanes) - 1;
constexpr size_t kMaxPrefixBins = BinStride(32 * kMaxWeight + 1);
constexpr size_t kMaxBins = BinStride(32 * kMaxHashWords * kMaxWeight + 1);

size_t Align(size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

// What bounds a launch's rows besides their lengths.
int64_t MostRows(int32_t num_rows, int32_t num_kv_heads) {
  return std::max(1, std::min({num_rows, kMaxLaunchRows, kMaxLaunchRowHeads / num_kv_heads}));
}

int64_t MostRuns(int32_t num_sms) {
  return int64_t{num_sms} * (kMaxBlockRuns - 1);
}

int64_t RowRuns(int32_t max_context, int32_t num_kv_heads, int32_t num_sms) {
  return int64_t{num_kv_heads} * NumRuns(max_context, MaxRuns(num_sms, num_kv_heads));
}

// What up to `rows` rows of `row` each come to in a launch that takes at most `most` of them all, but always one row.
// Unlike the product with LaunchRows, whose division leaves a rest, it never falls as its arguments grow.
int64_t LaunchTotal(int64_t rows, int64_t row, int64_t most) {
  return std::max(row, std::min(rows * row, most));
}

}  // namespace

int32_t MaxRuns(int32_t num_sms, int32_t num_kv_heads) {
  return std::max(1, num_sms / num_kv_heads);
}

int32_t RowPages(int32_t max_context) {
  return (NumPages(max_context) + 15) / 16 * 16;
}

int32_t LaunchRows(int32_t num_rows, int32_t max_context, int32_t num_kv_heads, int32_t num_sms) {
  const int64_t by_tokens = kMaxLaunchTokens / std::max<int64_t>(1, max_context);
  const int64_t by_runs = MostRuns(num_sms) / RowRuns(max_context, num_kv_heads, num_sms);
  return static_cast<int32_t>(std::max<int64_t>(1, std::min({MostRows(num_rows, num_kv_heads), by_runs, by_tokens})));
}

SparseWorkspace SparseWorkspaceOf(int32_t max_rows, int32_t max_context, int32_t num_q_heads, int32_t num_kv_heads,
                                  int32_t head_dim, int32_t num_sms) {
  const int64_t rows = MostRows(max_rows, num_kv_heads);
  const size_t tokens = kPageTokens * num_kv_heads * LaunchTotal(rows, RowPages(max_context), kMaxLaunchPages);
  const size_t runs = LaunchTotal(rows, RowRuns(max_context, num_kv_heads, num_sms), MostRuns(num_sms));
  const int32_t group = num_q_heads / num_kv_heads;
  const size_t heads = runs * ((group + kHeadMultiple - 1) / kHeadMultiple * kHeadMultiple);
  const size_t row_heads = std::max(kMaxLaunchRowHeads, num_kv_heads);
  SparseWorkspace parts;
  parts.counters = 0;
  parts.prefix_histogram = Align(row_heads * kNumRowCounters * sizeof(uint32_t));
  parts.histogram = parts.prefix_histogram + Align(row_heads * kMaxPrefixBins * sizeof(int32_t));
  parts.prefix_columns = parts.histogram + Align(row_heads * kMaxBins * sizeof(int32_t));
  parts.columns = parts.prefix_columns + Align(runs * kMaxPrefixBins * sizeof(int32_t));
  parts.scores = parts.columns + Align(runs * kMaxBins * sizeof(int32_t));
  parts.lists = parts.scores + Align(tokens * sizeof(uint16_t));
  parts.partials = parts.lists + Align(tokens * sizeof(uint16_t));
  parts.shifts = parts.partials + Align(heads * head_dim * sizeof(float));
  parts.sums = parts.shifts + Align(heads * sizeof(float));
  parts.total = parts.sums + Align(heads * sizeof(float));
  return parts;
}

}  // namespace spotlight::kernels::cuda
