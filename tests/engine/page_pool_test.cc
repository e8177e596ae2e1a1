#include "engine/page_pool.h"

#include <algorithm>
#include <deque>
#include <map>
#include <random>
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

class PagePoolAllocationTest : public testing::Test {
 protected:
  std::vector<int32_t> reclaimed_;
};

TEST_F(PagePoolAllocationTest, GivesEveryPageOnceAndThenNone) {
  PagePool pool(10);
  std::vector<int32_t> a, b;
  ASSERT_TRUE(pool.Allocate(4, &a, &reclaimed_));
  ASSERT_TRUE(pool.Allocate(6, &b, &reclaimed_));
  std::set<int32_t> all(a.begin(), a.end());
  all.insert(b.begin(), b.end());
  EXPECT_EQ(all.size(), 10u);
  EXPECT_EQ(*all.begin(), 0);
  EXPECT_EQ(*all.rbegin(), 9);
  EXPECT_FALSE(pool.Allocate(1, &a, &reclaimed_));
  EXPECT_EQ(a.size(), 4u);
  EXPECT_TRUE(reclaimed_.empty());
}

TEST_F(PagePoolAllocationTest, TakesNothingWhenItCannotGiveAll) {
  PagePool pool(3);
  std::vector<int32_t> pages;
  EXPECT_FALSE(pool.Allocate(4, &pages, &reclaimed_));
  EXPECT_TRUE(pages.empty());
  EXPECT_EQ(pool.num_free(), 3);
}

TEST_F(PagePoolAllocationTest, ReleasedPagesCanBeGivenAgain) {
  PagePool pool(2);
  std::vector<int32_t> pages;
  ASSERT_TRUE(pool.Allocate(2, &pages, &reclaimed_));
  pool.Release(&pages);
  EXPECT_TRUE(pages.empty());
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_TRUE(pool.Allocate(2, &pages, &reclaimed_));
}

TEST_F(PagePoolAllocationTest, APageWithTwoHoldersIsFreeWhenBothHaveLetGo) {
  PagePool pool(1);
  std::vector<int32_t> mine, others;
  ASSERT_TRUE(pool.Allocate(1, &mine, &reclaimed_));
  pool.Hold(mine[0]);
  others = mine;
  pool.Release(&mine);
  EXPECT_EQ(pool.num_free(), 0);
  pool.Release(&others);
  EXPECT_EQ(pool.num_free(), 1);
}

TEST_F(PagePoolAllocationTest, KeptPagesAreGivenLastAndTheLongestKeptFirst) {
  PagePool pool(5);
  std::vector<int32_t> a, b, c;
  ASSERT_TRUE(pool.Allocate(2, &a, &reclaimed_));
  ASSERT_TRUE(pool.Allocate(2, &b, &reclaimed_));
  const std::vector<int32_t> order = {a[1], a[0], b[1], b[0]};  // of a sequence's pages the last goes first
  for (const int32_t page : order) pool.SetKeep(page, true);
  pool.Release(&a);
  pool.Release(&b);
  EXPECT_EQ(pool.num_free(), 5);
  EXPECT_EQ(pool.num_kept(), 4);
  ASSERT_TRUE(pool.Allocate(1, &c, &reclaimed_));
  EXPECT_TRUE(reclaimed_.empty()) << "a free page was left";
  ASSERT_TRUE(pool.Allocate(4, &c, &reclaimed_));
  EXPECT_EQ(reclaimed_, order);
}

TEST_F(PagePoolAllocationTest, AKeptPageThatIsHeldAgainIsNotGivenAway) {
  PagePool pool(2);
  std::vector<int32_t> a, b;
  ASSERT_TRUE(pool.Allocate(1, &a, &reclaimed_));
  const int32_t page = a[0];
  pool.SetKeep(page, true);
  pool.Release(&a);
  pool.Hold(page);
  EXPECT_EQ(pool.num_free(), 1);
  ASSERT_TRUE(pool.Allocate(1, &b, &reclaimed_));
  EXPECT_NE(b[0], page);
  EXPECT_FALSE(pool.Allocate(1, &b, &reclaimed_));
}

TEST_F(PagePoolAllocationTest, APageThatNeedNotBeKeptAnyMoreIsFree) {
  PagePool pool(2);
  std::vector<int32_t> a;
  ASSERT_TRUE(pool.Allocate(2, &a, &reclaimed_));
  const std::vector<int32_t> both = a;
  for (const int32_t page : both) pool.SetKeep(page, true);
  pool.Release(&a);
  pool.SetKeep(both[0], false);
  EXPECT_EQ(pool.num_kept(), 1);
  ASSERT_TRUE(pool.Allocate(1, &a, &reclaimed_));
  EXPECT_EQ(a[0], both[0]);
  EXPECT_TRUE(reclaimed_.empty());
}

// The pool beside a model that writes down who holds what and when each page was let go.
class PagePoolModel {
 public:
  explicit PagePoolModel(int32_t num_pages) : pool_(num_pages) {
    for (int32_t page = 0; page < num_pages; ++page) free_.insert(page);
  }

  void Allocate(int32_t count) {
    std::vector<int32_t> pages, reclaimed;
    const auto available = static_cast<int32_t>(free_.size() + kept_.size());
    ASSERT_EQ(pool_.Allocate(count, &pages, &reclaimed), count <= available);
    if (count > available) {
      ASSERT_TRUE(pages.empty() && reclaimed.empty());
      return;
    }
    ASSERT_EQ(static_cast<int32_t>(pages.size()), count);
    const size_t num_reclaimed = count - std::min<size_t>(count, free_.size());
    ASSERT_EQ(reclaimed, std::vector<int32_t>(kept_.begin(), kept_.begin() + num_reclaimed));
    for (const int32_t page : pages) {
      const bool was_free = free_.erase(page) == 1;
      const auto kept = std::find(kept_.begin(), kept_.end(), page);
      ASSERT_NE(was_free, kept != kept_.end()) << "page " << page << " was neither free nor kept, or both";
      if (!was_free) kept_.erase(kept);
      ++holders_[page];
      keep_.erase(page);
    }
    held_.push_back(pages);
  }

  void Share(uint32_t draw) {
    std::vector<int32_t> known(kept_.begin(), kept_.end());
    for (const auto& [page, count] : holders_) known.push_back(page);
    if (known.empty()) return;
    const int32_t page = known[draw % known.size()];
    pool_.Hold(page);
    const auto kept = std::find(kept_.begin(), kept_.end(), page);
    if (kept != kept_.end()) kept_.erase(kept);
    ++holders_[page];
    held_.push_back({page});
  }

  void Release(uint32_t draw) {
    if (held_.empty()) return;
    const size_t which = draw % held_.size();
    std::vector<int32_t> pages = held_[which];
    held_.erase(held_.begin() + which);
    for (auto page = pages.rbegin(); page != pages.rend(); ++page) {
      if (--holders_[*page] > 0) continue;
      holders_.erase(*page);
      if (keep_.count(*page) == 1) {
        kept_.push_back(*page);
      } else {
        free_.insert(*page);
      }
    }
    pool_.Release(&pages);
    ASSERT_TRUE(pages.empty());
  }

  void SetKeep(uint32_t draw, bool keep) {
    std::vector<int32_t> known(kept_.begin(), kept_.end());
    for (const auto& [page, count] : holders_) known.push_back(page);
    if (known.empty()) return;
    const int32_t page = known[draw % known.size()];
    pool_.SetKeep(page, keep);
    const auto kept = std::find(kept_.begin(), kept_.end(), page);
    if (keep) {
      keep_.insert(page);
    } else {
      keep_.erase(page);
      if (kept != kept_.end()) {
        kept_.erase(kept);
        free_.insert(page);
      }
    }
  }

  void Check() const {
    ASSERT_EQ(pool_.num_free(), static_cast<int32_t>(free_.size() + kept_.size()));
    ASSERT_EQ(pool_.num_kept(), static_cast<int32_t>(kept_.size()));
    ASSERT_EQ(free_.size() + kept_.size() + holders_.size(), static_cast<size_t>(pool_.num_pages()))
        << "a page is lost";
    for (int32_t page = 0; page < pool_.num_pages(); ++page) {
      const auto holders = holders_.find(page);
      ASSERT_EQ(pool_.num_holders(page), holders == holders_.end() ? 0 : holders->second);
    }
  }

 private:
  PagePool pool_;
  std::set<int32_t> free_, keep_;
  std::deque<int32_t> kept_;  // the longest kept first
  std::map<int32_t, int32_t> holders_;
  std::vector<std::vector<int32_t>> held_;
};

TEST(PagePoolPropertyTest, NoPageIsLostOrGivenTwiceAndTheLongestKeptGoesFirst) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 rng(seed);
    PagePoolModel model(1 + static_cast<int32_t>(rng() % 40));
    for (int step = 0; step < 4000; ++step) {
      switch (rng() % 5) {
        case 0:
          model.Allocate(static_cast<int32_t>(rng() % 8));
          break;
        case 1:
          model.Share(rng());
          break;
        case 2:
        case 3:
          model.Release(rng());
          break;
        default:
          model.SetKeep(rng(), rng() % 4 != 0);
      }
      model.Check();
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace spotlight::engine
