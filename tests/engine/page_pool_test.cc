#include "engine/page_pool.h"

#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {

TEST(PagePoolTest, CountsPagesPerTokens) {
  EXPECT_EQ(PagesFor(0), 0);
  EXPECT_EQ(PagesFor(1), 1);
  EXPECT_EQ(PagesFor(64), 1);
  EXPECT_EQ(PagesFor(65), 2);
}

TEST(PagePoolTest, GivesEveryPageOnceAndThenNone) {
  PagePool pool(10);
  std::vector<int32_t> a, b;
  ASSERT_TRUE(pool.Allocate(4, &a));
  ASSERT_TRUE(pool.Allocate(6, &b));
  std::set<int32_t> all(a.begin(), a.end());
  all.insert(b.begin(), b.end());
  EXPECT_EQ(all.size(), 10u);
  EXPECT_EQ(*all.begin(), 0);
  EXPECT_EQ(*all.rbegin(), 9);
  EXPECT_FALSE(pool.Allocate(1, &a));
  EXPECT_EQ(a.size(), 4u);
}

TEST(PagePoolTest, TakesNothingWhenItCannotGiveAll) {
  PagePool pool(3);
  std::vector<int32_t> pages;
  EXPECT_FALSE(pool.Allocate(4, &pages));
  EXPECT_TRUE(pages.empty());
  EXPECT_EQ(pool.num_free(), 3);
}

TEST(PagePoolTest, FreedPagesCanBeGivenAgain) {
  PagePool pool(2);
  std::vector<int32_t> pages;
  ASSERT_TRUE(pool.Allocate(2, &pages));
  pool.Free(&pages);
  EXPECT_TRUE(pages.empty());
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_TRUE(pool.Allocate(2, &pages));
}

}  // namespace
}  // namespace spotlight::engine
