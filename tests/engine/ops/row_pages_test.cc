#include "engine/ops/row_pages.h"

#include <vector>

#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {

constexpr int64_t kP = kernels::kPageTokens;

TEST(RowPagesTest, AStepWritesOverARowsTokensAndNotBehindThem) {
  RowPages row;
  const std::vector<int32_t> pages = {5, 2, 9};
  row.Assign(pages.data(), static_cast<int32_t>(2 * kP + 10));
  EXPECT_TRUE(row.AreWrittenBy({5 * kP}));
  EXPECT_TRUE(row.AreWrittenBy({2 * kP + kP - 1}));
  EXPECT_TRUE(row.AreWrittenBy({9 * kP + 9}));
  EXPECT_FALSE(row.AreWrittenBy({9 * kP + 10, 9 * kP + 11})) << "its own next tokens";
  EXPECT_FALSE(row.AreWrittenBy({-1, 3 * kP, 100 * kP, 4 * kP + 63}));
  EXPECT_TRUE(row.AreWrittenBy({3 * kP, 3 * kP + 1, 7 * kP, 2 * kP, 2 * kP + 1}));
}

TEST(RowPagesTest, HoldsTheLatestRowOnly) {
  RowPages row;
  EXPECT_TRUE(row.empty());
  EXPECT_FALSE(row.AreWrittenBy({0}));
  const std::vector<int32_t> first = {1, 2}, second = {3};
  row.Assign(first.data(), static_cast<int32_t>(kP + 1));
  row.Assign(second.data(), 1);
  EXPECT_FALSE(row.AreWrittenBy({kP, 2 * kP}));
  EXPECT_TRUE(row.AreWrittenBy({3 * kP}));
  row.Clear();
  EXPECT_TRUE(row.empty());
  EXPECT_FALSE(row.AreWrittenBy({3 * kP}));
}

}  // namespace
}  // namespace spotlight::engine
