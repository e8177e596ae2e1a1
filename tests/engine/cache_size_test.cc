#include "engine/cache_size.h"

#include <string>

#include "engine/device.h"
#include "gtest/gtest.h"
#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

const at::Device kCpu(at::kCPU);

KvCacheShape Shape() {
  return {/*num_layers=*/32, /*num_kv_heads=*/8, /*head_dim=*/128, /*hash_words=*/4, {}};
}

CacheSizing Large() {
  CacheSizing sizing;
  sizing.max_running = 1000;
  sizing.max_context = 1 << 20;
  return sizing;
}

TEST(CacheSizeTest, TakesTheShareThatItIsTold) {
  CacheSizing sizing = Large();
  const double page_bytes = KvBytesPerPage(Shape(), at::kBFloat16) + CodeBytesPerPage(Shape());
  for (const double share : {0.0, 0.05, 0.4, 1.0}) {
    sizing.memory_share = share;
    const auto pages = NumCachePages(sizing, Shape(), at::kBFloat16, kCpu);
    ASSERT_TRUE(pages.ok()) << pages.status();
    // Others take and free memory meanwhile.
    const double expected = (share > 0 ? share : 0.25) * static_cast<double>(AvailableBytes(kCpu)) / page_bytes;
    EXPECT_NEAR(*pages / expected, 1, 0.2) << share;
  }
}

TEST(CacheSizeTest, CountsE4m3AndItsScales) {
  KvCacheShape shape = Shape();
  EXPECT_EQ(KvBytesPerPage(shape, at::kBFloat16), int64_t{64} * 32 * 2 * 8 * 128 * 2);
  shape.e4m3 = true;
  EXPECT_EQ(KvBytesPerPage(shape, at::kBFloat16), int64_t{64} * 32 * 2 * 8 * (128 + 4));
  EXPECT_EQ(KvBytesPerPage(shape, at::kFloat), int64_t{64} * 32 * 2 * 8 * (128 + 4));
  CacheSizing sizing = Large();
  sizing.memory_share = 0.4;
  const auto pages = NumCachePages(sizing, shape, at::kBFloat16, kCpu);
  ASSERT_TRUE(pages.ok()) << pages.status();
  const double page_bytes = KvBytesPerPage(shape, at::kBFloat16) + CodeBytesPerPage(shape);
  EXPECT_NEAR(*pages / (0.4 * static_cast<double>(AvailableBytes(kCpu)) / page_bytes), 1, 0.2);
}

TEST(CacheSizeTest, ATokenCountIsTakenAsToldAndRoundedUpToPages) {
  CacheSizing sizing = Large();
  sizing.max_tokens = 3 * kernels::kPageTokens + 1;
  EXPECT_EQ(*NumCachePages(sizing, Shape(), at::kBFloat16, kCpu), 4);
}

TEST(CacheSizeTest, IsNeverLargerThanWhatRunsCanUse) {
  CacheSizing sizing = Large();
  sizing.max_running = 2;
  sizing.max_context = 130;
  EXPECT_EQ(*NumCachePages(sizing, Shape(), at::kBFloat16, kCpu), 2 * 3);
}

TEST(CacheSizeTest, WithoutRoomForTwoPagesItSaysWhatIsFree) {
  CacheSizing sizing = Large();
  sizing.scratch_bytes = int64_t{1} << 60;
  const auto pages = NumCachePages(sizing, Shape(), at::kBFloat16, kCpu);
  EXPECT_EQ(pages.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(pages.status().message().find("and 0 are free"), std::string::npos) << pages.status();
}

}  // namespace
}  // namespace spotlight::engine
