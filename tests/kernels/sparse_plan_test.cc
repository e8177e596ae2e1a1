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
    const size_t pages = row_heads * RowPages(context), heads = (group + 7) / 8 * 8;
    const size_t units = row_heads * NumUnits(context, MaxUnits(kSms, num_kv_heads));
    ASSERT_LE(row_heads * kNumRowCounters * 4, parts.prefix_histogram - parts.counters);
    ASSERT_LE(row_heads * (32 * 15 + 1) * 4, parts.histogram - parts.prefix_histogram);
    ASSERT_LE(row_heads * (256 * 15 + 1) * 4, parts.ties - parts.histogram);
    ASSERT_LE(pages, parts.scores - parts.ties);
    ASSERT_LE(pages * kPageTokens * 2, parts.masks - parts.scores);
    ASSERT_LE(pages * kPageTokens / 8 * 2, parts.chosen - parts.masks);
    ASSERT_LE(pages * kPageTokens / 8, parts.partials - parts.chosen);
    ASSERT_LE(units * heads * kDim * 4, parts.shifts - parts.partials);
    ASSERT_LE(units * heads * 4, parts.sums - parts.shifts);
    ASSERT_LE(units * heads * 4, parts.total - parts.sums);
  }
}

TEST(SparsePlanTest, KeepsWhatMustBeZeroInOnePlace) {
  const SparseWorkspace one = WorkspaceFor(1, 100, 1, 1), large = WorkspaceFor(200, 1 << 20, 8, 16);
  EXPECT_EQ(one.prefix_histogram, large.prefix_histogram);
  EXPECT_EQ(one.histogram, large.histogram);
  EXPECT_EQ(one.ties, large.ties);
}

}  // namespace
}  // namespace spotlight::kernels::cuda
