// What attention says that it allocates, before there is a cache.
#include <gtest/gtest.h>

#include "engine/ops/spotlight_attention.h"

namespace spotlight::engine {
namespace {

TEST(AttentionScratchTest, CountsRetrievalsClocks) {
  const AttentionShape shape = {28, 4, 128};
  AttentionOptions options;
  options.max_decode_rows = 64;
  options.max_context = 8192;
  const auto bytes = [&](int32_t num_layers, at::DeviceType device) {
    return SpotlightAttention::ScratchBytes(shape, options, num_layers, at::kFloat, at::Device(device));
  };
  // A run for every row; each has five times of 8 bytes at least.
  EXPECT_EQ(bytes(28, at::kCUDA) - bytes(0, at::kCUDA), RetrievalClocks::Bytes(28, 64));
  EXPECT_GE(RetrievalClocks::Bytes(28, 64), 28 * 64 * 5 * 8);
  EXPECT_EQ(bytes(28, at::kCPU), 0);
}

}  // namespace
}  // namespace spotlight::engine
