// The same checkpoint on the CPU and on a GPU: logits in fp32; greedy tokens in bf16, which sums in other orders round
// apart.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/testing/default_model.h"
#include "tests/testing/model_harness.h"
#include "tests/testing/relative_error.h"

namespace spotlight {
namespace {

using testing::ArgMax;
using testing::DefaultModelFolder;
using testing::HarnessOptions;
using testing::ModelHarness;
using testing::RelativeError;

constexpr size_t kNumPrompts = 3;
constexpr int kNumTokens = 64;
// Of a logit's size: bf16 itself rounds to 0.4%.
constexpr float kNearTie = 1e-2f;

struct Model {
  std::string name, folder, prompts;
};

class DevicesTest : public ::testing::TestWithParam<Model> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(std::filesystem::exists(GetParam().folder + "/config.json"))
        << GetParam().folder << " is missing: run 'make model'";
    std::ifstream file("tests/testdata/goldens/" + GetParam().prompts);
    ASSERT_TRUE(file) << GetParam().prompts;
    const nlohmann::json goldens = nlohmann::json::parse(file);
    for (const auto& example : goldens["cases"]) {
      prompts_.push_back(example["prompt_token_ids"].get<std::vector<int32_t>>());
    }
    ASSERT_GE(prompts_.size(), kNumPrompts);
    prompts_.resize(kNumPrompts);
  }
  static std::unique_ptr<ModelHarness> Create(at::ScalarType dtype, at::Device device) {
    HarnessOptions options;
    options.dtype = dtype;
    options.device = device;
    auto harness = ModelHarness::Create(GetParam().folder, options);
    EXPECT_TRUE(harness.ok()) << harness.status();
    return harness.ok() ? *std::move(harness) : nullptr;
  }

  std::vector<std::vector<int32_t>> prompts_;
};

TEST_P(DevicesTest, LogitsInFp32AreTheCpus) {
  const auto cpu = Create(at::kFloat, at::kCPU), cuda = Create(at::kFloat, at::kCUDA);
  ASSERT_TRUE(cpu != nullptr && cuda != nullptr);
  for (const std::vector<int32_t>& prompt : prompts_) {
    auto expected = cpu->Prefill(prompt), actual = cuda->Prefill(prompt);
    for (int step = 0; step < kNumTokens; ++step) {
      ASSERT_TRUE(expected.ok() && actual.ok()) << expected.status() << actual.status();
      ASSERT_LT(RelativeError(*actual, *expected), 1e-3) << "step " << step;
      const int32_t token = ArgMax(*expected);
      expected = cpu->Decode(token);
      actual = cuda->Decode(token);
    }
  }
}

TEST_P(DevicesTest, GreedyTokensInBf16AreTheCpusOrFlipANearTie) {
  const auto cpu = Create(at::kBFloat16, at::kCPU), cuda = Create(at::kBFloat16, at::kCUDA);
  ASSERT_TRUE(cpu != nullptr && cuda != nullptr);
  for (const std::vector<int32_t>& prompt : prompts_) {
    auto expected = cpu->Prefill(prompt), actual = cuda->Prefill(prompt);
    for (int step = 0; step < kNumTokens; ++step) {
      ASSERT_TRUE(expected.ok() && actual.ok()) << expected.status() << actual.status();
      const int32_t token = ArgMax(*expected), other = ArgMax(*actual);
      if (token != other) {
        const float gap = std::min((*expected)[token] - (*expected)[other], (*actual)[other] - (*actual)[token]);
        EXPECT_LE(gap, kNearTie * std::abs((*expected)[token]))
            << "token " << step << " is " << token << " on the CPU, " << other << " on the GPU";
        std::printf("token %d: %d on the CPU, %d on the GPU, %.4f apart at %.2f\n", step, token, other, gap,
                    (*expected)[token]);
        break;
      }
      expected = cpu->Decode(token);
      actual = cuda->Decode(token);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, DevicesTest,
                         ::testing::Values(Model{"TinyLlama", "tests/testdata/tiny-llama", "greedy_tiny_llama.json"},
                                           Model{"TinyQwen2", "tests/testdata/tiny-qwen2", "greedy_tiny_qwen2.json"},
                                           Model{"SmolLm2", DefaultModelFolder(), "greedy_smollm2.json"}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace spotlight
