#include "kernels/cuda/sparse_plan.h"

#include <gtest/gtest.h>

#include <random>

namespace spotlight::kernels::cuda {
namespace {

constexpr int32_t kDim = 128, kSms = 132;

SparseWorkspace WorkspaceFor(int32_t rows, int32_t context, int32_t num_kv_heads, int32_t group) {
  return SparseWorkspaceOf(rows, context, num_kv_heads * group, num_kv_heads, kDim, kSms);
}

// A call with a shorter context may take more rows a launch than the call that the workspace was allocated for.
TEST(SparsePlanTest, NeverNeedsLessForMoreRowsOrLongerContexts) {
  EXPECT_GE(WorkspaceFor(64, 266240, 4, 7).total, WorkspaceFor(64, 131072, 4, 7).total);
  std::mt19937 random(1);
  for (int i = 0; i < 200000; ++i) {
    const int32_t num_kv_heads = 1 << random() % 6, rows = 1 + random() % 300;
    const int32_t context = 1 + random() % (1 << (6 + random() % 17));
    const int32_t fewer = 1 + random() % rows, shorter = 1 + random() % context;
    ASSERT_GE(WorkspaceFor(rows, context, num_kv_heads, 7).total, WorkspaceFor(fewer, shorter, num_kv_heads, 7).total)
        << num_kv_heads << " KV heads: " << rows << " x " << context << " and " << fewer << " x " << shorter;
  }
}

TEST(SparsePlanTest, HoldsWhatALaunchWrites) {
  std::mt19937 random(2);
  for (int i = 0; i < 20000; ++i) {
    const int32_t num_kv_heads = 1 + random() % 32, group = 1 + random() % 16, rows = 1 + random() % 300;
    const int32_t context = 1 + random() % (1 << (6 + random() % 17));
    SCOPED_TRACE(::testing::Message() << num_kv_heads << " " << group << " " << rows << " " << context);
    const SparseWorkspace parts = WorkspaceFor(rows, context, num_kv_heads, group);
    const size_t row_heads = size_t{1} * LaunchRows(rows, context, num_kv_heads, kSms) * num_kv_heads;
    const size_t tokens = row_heads * RowPages(context) * kPageTokens, heads = (group + 7) / 8 * 8;
    const size_t runs = row_heads * NumRuns(context, MaxRuns(kSms, num_kv_heads));
    ASSERT_LE(row_heads * kNumRowCounters * 4, parts.prefix_histogram - parts.counters);
    ASSERT_LE(row_heads * BinStride(32 * 15 + 1) * 4, parts.histogram - parts.prefix_histogram);
    ASSERT_LE(row_heads * BinStride(256 * 15 + 1) * 4, parts.prefix_columns - parts.histogram);
    ASSERT_LE(runs * BinStride(32 * 15 + 1) * 4, parts.columns - parts.prefix_columns);
    ASSERT_LE(runs * BinStride(256 * 15 + 1) * 4, parts.scores - parts.columns);
    ASSERT_LE(tokens * 2, parts.lists - parts.scores);
    ASSERT_LE(tokens * 2, parts.partials - parts.lists);
    ASSERT_LE(runs * heads * kDim * 4, parts.shifts - parts.partials);
    ASSERT_LE(runs * heads * 4, parts.sums - parts.shifts);
    ASSERT_LE(runs * heads * 4, parts.total - parts.sums);
  }
}

TEST(SparsePlanTest, CutsRowsIntoRunsWhoseTokens16BitsName) {
  for (const int32_t max_runs : {1, 16, 33, 132}) {
    for (int64_t context = 0; context <= INT32_MAX - kPageTokens; context = context * 17 / 16 + 1) {
      const auto length = static_cast<int32_t>(context);
      const int32_t runs = NumRuns(length, max_runs);
      ASSERT_GE(runs, 1);
      ASSERT_LT((NumPages(length) + runs - 1) / runs * kPageTokens, 1 << 16) << context;
      ASSERT_GE(NumRuns(length + kPageTokens, max_runs), runs);
    }
  }
}

TEST(SparsePlanTest, KeepsWhatMustBeZeroInOnePlace) {
  const SparseWorkspace one = WorkspaceFor(1, 100, 1, 1), large = WorkspaceFor(200, 1 << 20, 8, 16);
  EXPECT_EQ(one.prefix_histogram, large.prefix_histogram);
  EXPECT_EQ(one.histogram, large.histogram);
  EXPECT_EQ(one.prefix_columns, large.prefix_columns);
}

}  // namespace
}  // namespace spotlight::kernels::cuda
