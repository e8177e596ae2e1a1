// Retrieval through a whole model, with untrained hash files: what it must not change, and that it does something.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "engine/model/hash_file.h"
#include "tests/testing/model_harness.h"
#include "tests/testing/relative_error.h"

namespace spotlight {
namespace {

using testing::HarnessOptions;
using testing::ModelHarness;
using testing::RelativeError;

constexpr int32_t kPromptTokens = 700;
constexpr int32_t kAllCandidates = 1 << 20;

std::vector<int32_t> Prompt() {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < kPromptTokens; ++i) ids.push_back(5 + i * 37 % 400);
  return ids;
}

#ifdef TEST_ON_CUDA
constexpr at::DeviceType kTestDevice = at::kCUDA;
#else
constexpr at::DeviceType kTestDevice = at::kCPU;
#endif

std::unique_ptr<ModelHarness> Create(const std::string& folder, at::ScalarType dtype, at::Device device = kTestDevice) {
  auto plain = ModelHarness::Create(folder, HarnessOptions());
  EXPECT_TRUE(plain.ok()) << plain.status();
  HarnessOptions options;
  options.dtype = dtype;
  options.device = device;
  options.hash_path = ::testing::TempDir() + "/hash.safetensors";
  const auto written = engine::WriteUntrainedHashFile(options.hash_path, (*plain)->config(), (*plain)->fingerprint(),
                                                      /*first_layer=*/2, /*hash_words=*/4, /*seed=*/9);
  EXPECT_TRUE(written.ok()) << written;
  auto harness = ModelHarness::Create(folder, options);
  EXPECT_TRUE(harness.ok()) << harness.status();
  return harness.ok() ? *std::move(harness) : nullptr;
}

class SparseModelTest : public ::testing::TestWithParam<std::string> {};

TEST_P(SparseModelTest, SelectingEveryCandidateEqualsDense) {
  for (const auto& [dtype, bound] : {std::make_pair(at::kFloat, 1e-5), std::make_pair(at::kBFloat16, 2e-2)}) {
    const auto harness = Create(GetParam(), dtype);
    ASSERT_NE(harness, nullptr);
    ASSERT_TRUE(harness->Prefill(Prompt()).ok());
    const auto dense = harness->Decode(7);
    ASSERT_TRUE(harness->Prefill(Prompt()).ok());
    const auto sparse = harness->Decode(7, kAllCandidates);
    ASSERT_TRUE(dense.ok() && sparse.ok()) << dense.status() << sparse.status();
    EXPECT_LT(RelativeError(*sparse, *dense), bound);
  }
}

TEST_P(SparseModelTest, SelectingFewChangesTheLogitsAndRepeatsBitForBit) {
  const auto harness = Create(GetParam(), at::kFloat);
  ASSERT_NE(harness, nullptr);
  ASSERT_TRUE(harness->Prefill(Prompt()).ok());
  const auto dense = harness->Decode(7);
  ASSERT_TRUE(harness->Prefill(Prompt()).ok());
  const auto first = harness->Decode(7, 64);
  ASSERT_TRUE(harness->Prefill(Prompt()).ok());
  const auto second = harness->Decode(7, 64);
  ASSERT_TRUE(dense.ok() && first.ok() && second.ok());
  EXPECT_EQ(*first, *second);
  EXPECT_GT(RelativeError(*first, *dense), 1e-4);
}

#ifdef TEST_ON_CUDA
// Codes, planes, selection and sums, over steps that each build on what the one before appended.
TEST_P(SparseModelTest, DecodesTheCpusLogits) {
  const auto cpu = Create(GetParam(), at::kFloat, at::kCPU), cuda = Create(GetParam(), at::kFloat);
  ASSERT_TRUE(cpu != nullptr && cuda != nullptr);
  ASSERT_TRUE(cpu->Prefill(Prompt()).ok());
  ASSERT_TRUE(cuda->Prefill(Prompt()).ok());
  for (int32_t step = 0; step < 70; ++step) {  // past a page's end
    const auto expected = cpu->Decode(7 + step, 64), actual = cuda->Decode(7 + step, 64);
    ASSERT_TRUE(expected.ok() && actual.ok()) << expected.status() << actual.status();
    EXPECT_LT(RelativeError(*actual, *expected), 1e-4) << "step " << step;
  }
}
#endif

INSTANTIATE_TEST_SUITE_P(Models, SparseModelTest,
                         ::testing::Values("tests/testdata/tiny-llama", "tests/testdata/tiny-qwen2"));

}  // namespace
}  // namespace spotlight
