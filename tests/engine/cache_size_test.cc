#include "engine/cache_size.h"

#include <string>

#include "engine/device.h"
#include "gtest/gtest.h"
#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

KvCacheShape Shape() {
  return {/*num_layers=*/32, /*num_kv_heads=*/8, /*head_dim=*/128, /*hash_words=*/4, {}};
}

int64_t PageBytes(const KvCacheShape& shape) {
  return KvBytesPerPage(shape, at::kBFloat16) + CodeBytesPerPage(shape);
}

CacheSizing Large() {
  CacheSizing sizing;
  sizing.available_bytes = 100000 * kMiB;
  sizing.scratch_bytes = 3000 * kMiB;
  sizing.max_running = 1000;
  sizing.max_context = 1 << 20;
  return sizing;
}

absl::StatusOr<int32_t> Pages(const CacheSizing& sizing, at::DeviceType device) {
  return NumCachePages(sizing, Shape(), at::kBFloat16, device);
}

TEST(CacheSizeTest, TakesTheShareThatItIsTold) {
  CacheSizing sizing = Large();
  for (const at::DeviceType device : {at::kCPU, at::kCUDA}) {
    for (const double share : {0.0, 0.05, 0.4, 1.0}) {
      sizing.memory_share = share;
      const auto pages = Pages(sizing, device);
      ASSERT_TRUE(pages.ok()) << pages.status();
      const double taken = share > 0 ? share : device == at::kCPU ? 0.25 : 0.9;
      EXPECT_EQ(*pages, static_cast<int32_t>(taken * 97000 * kMiB / PageBytes(Shape()))) << share;
    }
  }
}

TEST(CacheSizeTest, CountsE4m3AndItsScales) {
  KvCacheShape shape = Shape();
  EXPECT_EQ(KvBytesPerPage(shape, at::kBFloat16), int64_t{64} * 32 * 2 * 8 * 128 * 2);
  shape.e4m3 = true;
  EXPECT_EQ(KvBytesPerPage(shape, at::kBFloat16), int64_t{64} * 32 * 2 * 8 * (128 + 4));
  EXPECT_EQ(KvBytesPerPage(shape, at::kFloat), int64_t{64} * 32 * 2 * 8 * (128 + 4));
  CacheSizing sizing = Large();
  sizing.memory_share = 0.5;
  const auto pages = NumCachePages(sizing, shape, at::kBFloat16, at::kCPU);
  ASSERT_TRUE(pages.ok()) << pages.status();
  EXPECT_EQ(*pages, 48500 * kMiB / PageBytes(shape));
}

TEST(CacheSizeTest, ATokenCountIsTakenAsToldAndRoundedUpToPages) {
  CacheSizing sizing = Large();
  sizing.max_tokens = 3 * kernels::kPageTokens + 1;
  EXPECT_EQ(*Pages(sizing, at::kCPU), 4);
  EXPECT_EQ(*Pages(sizing, at::kCUDA), 4);
}

TEST(CacheSizeTest, OnAGpuATokenCountMustFitBesideTheSteps) {
  CacheSizing sizing = Large();
  const int64_t fitting = 97000 * kMiB / PageBytes(Shape());
  sizing.max_tokens = fitting * kernels::kPageTokens;
  EXPECT_EQ(*Pages(sizing, at::kCUDA), fitting);
  ++sizing.max_tokens;
  const absl::Status status = Pages(sizing, at::kCUDA).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(),
            "a KV cache of 776001 tokens (--max-tokens-in-cache) takes 97008 MiB of device memory, and steps "
            "(--max-step-tokens, --max-running) 3000 MiB, but 100000 MiB are free");
  EXPECT_EQ(*Pages(sizing, at::kCPU), fitting + 1) << "pages that nobody uses cost nothing there";
  sizing.scratch_bytes = sizing.available_bytes + 1;
  sizing.max_tokens = 1;
  EXPECT_EQ(Pages(sizing, at::kCUDA).status().code(), absl::StatusCode::kResourceExhausted);
  sizing.max_tokens = (int64_t{1} << 36) + 1;
  EXPECT_EQ(Pages(sizing, at::kCUDA).status().message(),
            "max_tokens_in_cache: must be at most 68719476736, got 68719476737");
}

TEST(CacheSizeTest, OnACpuItIsNeverLargerThanWhatRunsCanUse) {
  CacheSizing sizing = Large();
  sizing.max_running = 2;
  sizing.max_context = 130;
  EXPECT_EQ(*Pages(sizing, at::kCPU), 2 * 3);
  EXPECT_EQ(*Pages(sizing, at::kCUDA), static_cast<int32_t>(0.9 * 97000 * kMiB / PageBytes(Shape())));
}

TEST(CacheSizeTest, WithoutRoomForTwoPagesItSaysWhatIsFree) {
  CacheSizing sizing = Large();
  sizing.available_bytes = sizing.scratch_bytes + 2 * PageBytes(Shape());
  for (const at::DeviceType device : {at::kCPU, at::kCUDA}) {
    sizing.memory_share = 1;
    EXPECT_EQ(*Pages(sizing, device), 2);
    sizing.memory_share = 0.9;
    const absl::Status status = Pages(sizing, device).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(status.message(),
              "no memory for a KV cache: a page of 64 tokens takes 8388608 bytes; 3162505216 are free, of which steps "
              "(--max-step-tokens, --max-running) take 3145728000, and 0.9 of the rest may be taken "
              "(--cache-memory-share)");
  }
  sizing.available_bytes = 0;
  EXPECT_EQ(Pages(sizing, at::kCUDA).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(AvailableBytesTest, OfACpuThereIsMemory) {
  const auto bytes = AvailableBytes(at::kCPU);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_GT(*bytes, kMiB);
}

}  // namespace
}  // namespace spotlight::engine
