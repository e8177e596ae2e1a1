// What LoadEngine chooses by the device, and says of it.
#include "engine/load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <utility>

#include "tests/testing/model_harness.h"

namespace spotlight::engine {
namespace {

using ::testing::Contains;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kFolder[] = "tests/testdata/tiny-llama";

class LoadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    setenv("CUDA_VISIBLE_DEVICES", "", /*replace=*/1);
    options_.model_folder = kFolder;
    options_.max_tokens_in_cache = 1024;
  }
  absl::StatusOr<LoadedEngine> Load() { return LoadEngine(options_, nullptr); }

  LoadOptions options_;
};

TEST_F(LoadTest, SaysWhyAutoIsTheCpu) {
  auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->notes, Contains("--device auto is the CPU: CUDA_VISIBLE_DEVICES is \"\""));
  EXPECT_EQ(loaded->engine->model().device, "cpu");
  options_.device = "cpu";
  loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->notes, Not(Contains(StartsWith("--device"))));
}

TEST_F(LoadTest, SparseBeginsWhereTheDeviceOrTheCallerSays) {
  options_.hash = ::testing::TempDir() + "/load_hash.safetensors";
  options_.allow_untrained_hash = true;
  const absl::Status written = testing::WriteUntrainedHash(kFolder, options_.hash);
  ASSERT_TRUE(written.ok()) << written;
  for (const auto& [given, expected] : {std::pair(kSparseMinContextByDevice, 4096), {0, 0}, {77, 77}}) {
    options_.retrieval.sparse_min_context = given;
    const auto loaded = Load();
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(loaded->engine->options().retrieval.sparse_min_context, expected);
    EXPECT_THAT(loaded->notes, Contains("retrieval auto: sparse from " + std::to_string(expected) +
                                        " tokens of context on, dense below"));
  }
  options_.retrieval.sparse_min_context = -2;
  EXPECT_EQ(Load().status().message(), "sparse_min_context: must be at least 0, got -2");
}

}  // namespace
}  // namespace spotlight::engine
