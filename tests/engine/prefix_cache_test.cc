#include "engine/prefix_cache.h"

#include <numeric>
#include <vector>

#include "absl/strings/escaping.h"
#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {

std::vector<int32_t> Tokens(int32_t count, int32_t first = 0) {
  std::vector<int32_t> ids(count);
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

std::string Hex(const PageHash& hash) {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(hash.data()), hash.size()));
}

// From Python's hashlib: r = sha256(b"spotlight prefix cache 1:salt"), then twice sha256(r + 64 little-endian int32).
TEST(PageHashTest, IsSha256OfTheHashBeforeAndTheTokens) {
  const std::vector<PageHash> hashes = PageHashes("salt", Tokens(130));
  ASSERT_EQ(hashes.size(), 3u);
  EXPECT_EQ(Hex(hashes[0]), "754555ad0339a882616cdd0fddfe010c5dc9119da54741f4808b1099d904948e");
  EXPECT_EQ(Hex(hashes[1]), "b59588dda496fc96cea7a57f8665054f421a6557b325c76d4be20062b8efbd30");
  EXPECT_EQ(Hex(hashes[2]), "93e2179465dac181f240b900df37cb4d3f775f2a4a31956e0aa6be15a791e5d3");
}

TEST(PageHashTest, DependsOnSaltAndOnEveryTokenBefore) {
  const std::vector<PageHash> hashes = PageHashes("", Tokens(256));
  ASSERT_EQ(hashes.size(), 5u);
  EXPECT_NE(PageHashes("x", Tokens(256))[4], hashes[4]);
  std::vector<int32_t> other = Tokens(256);
  ++other[100];
  const std::vector<PageHash> others = PageHashes("", other);
  EXPECT_EQ(others[1], hashes[1]);
  for (int page = 2; page <= 4; ++page) EXPECT_NE(others[page], hashes[page]);
}

TEST(PageHashTest, APageThatIsNotFullHasNone) {
  EXPECT_EQ(PageHashes("", Tokens(63)).size(), 1u);
  EXPECT_EQ(PageHashes("", Tokens(64)).size(), 2u);
}

class PrefixCacheTest : public testing::Test {
 protected:
  std::vector<int32_t> Find(const std::vector<PageHash>& hashes) const {
    std::vector<int32_t> pages;
    cache_.Find(hashes, &pages);
    return pages;
  }

  const std::vector<PageHash> hashes_ = PageHashes("", Tokens(64 * 5));
  PrefixCache cache_{10};
};

TEST_F(PrefixCacheTest, FindsTheLongestBeginning) {
  EXPECT_TRUE(Find(hashes_).empty());
  EXPECT_TRUE(cache_.Insert(hashes_[0], 7));
  EXPECT_TRUE(cache_.Insert(hashes_[1], 3));
  EXPECT_TRUE(cache_.Insert(hashes_[3], 4));
  EXPECT_EQ(Find(hashes_), (std::vector<int32_t>{7, 3}));
  EXPECT_TRUE(cache_.Insert(hashes_[2], 9));
  EXPECT_EQ(Find(hashes_), (std::vector<int32_t>{7, 3, 9, 4}));
}

TEST_F(PrefixCacheTest, TheFirstPageOfAContentStays) {
  EXPECT_TRUE(cache_.Insert(hashes_[0], 1));
  EXPECT_FALSE(cache_.Insert(hashes_[0], 2));
  EXPECT_EQ(Find(hashes_), std::vector<int32_t>{1});
  cache_.Forget(2);
  EXPECT_EQ(Find(hashes_), std::vector<int32_t>{1});
}

TEST_F(PrefixCacheTest, AForgottenPageMayHoldSomethingElse) {
  EXPECT_TRUE(cache_.Insert(hashes_[0], 1));
  cache_.Forget(1);
  cache_.Forget(1);
  EXPECT_TRUE(Find(hashes_).empty());
  EXPECT_EQ(cache_.num_pages(), 0);
  EXPECT_TRUE(cache_.Insert(hashes_[4], 1));
  EXPECT_TRUE(cache_.Insert(hashes_[0], 2));
  EXPECT_EQ(Find(hashes_), std::vector<int32_t>{2});
}

}  // namespace
}  // namespace spotlight::engine
