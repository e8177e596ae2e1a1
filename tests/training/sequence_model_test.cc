// Whole sequences through the model, against what transformers said of the same prompts (tests/testdata/goldens).
#include "training/sequence_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "training/activations.h"

namespace spotlight::training {
namespace {

using nlohmann::json;

std::unique_ptr<SequenceModel> LoadTiny(const std::string& name) {
  SequenceModelOptions options;
  options.model_folder = "tests/testdata/" + name;
  options.dtype = engine::DTypeChoice::kFp32;
  options.device = "cpu";
  auto model = SequenceModel::Load(options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

json Golden(const std::string& name) {
  std::ifstream file("tests/testdata/goldens/" + name);
  EXPECT_TRUE(file) << name;
  return json::parse(file);
}

absl::StatusOr<at::Tensor> Dense(const AttentionInput& input) {
  return DenseAttention(input);
}

class SequenceModelTest : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(SequenceModelTest, LastTokensLogitsAreTransformers) {
  const auto model = LoadTiny(GetParam().first);
  ASSERT_NE(model, nullptr);
  for (const json& example : Golden(GetParam().second)["cases"]) {
    SCOPED_TRACE(example["name"].get<std::string>());
    const auto prompt = example["prompt_token_ids"].get<std::vector<int32_t>>();
    const auto tokens = static_cast<int64_t>(prompt.size());
    auto states = model->Run(prompt, Dense, tokens - 1, tokens);
    ASSERT_TRUE(states.ok()) << states.status();
    const at::Tensor logits = model->Logits(*states)[0];
    const auto ids = example["logits"]["token_ids"].get<std::vector<int32_t>>();
    const auto values = example["logits"]["values"].get<std::vector<double>>();
    double error = 0, reference = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      error += std::pow(logits[ids[i]].item<float>() - values[i], 2);
      reference += values[i] * values[i];
    }
    EXPECT_LT(std::sqrt(error / reference), 1e-3);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, SequenceModelTest,
                         ::testing::Values(std::make_pair("tiny-llama", "greedy_tiny_llama.json"),
                                           std::make_pair("tiny-qwen2", "greedy_tiny_qwen2.json")));

// What attention is given are 8 bits and a scale for each token and head.
TEST(SequenceModelTest, AnFp8CacheRoundsKeysAndValues) {
  SequenceModelOptions options;
  options.model_folder = "tests/testdata/tiny-llama";
  options.dtype = engine::DTypeChoice::kFp32;
  options.device = "cpu";
  const auto plain = SequenceModel::Load(options);
  options.kv_cache_dtype = engine::KvCacheDType::kFp8;
  const auto rounded = SequenceModel::Load(options);
  ASSERT_TRUE(plain.ok() && rounded.ok());
  std::vector<AttentionInput> inputs;
  const auto keep = [&](const AttentionInput& input) {
    if (input.layer == 0) inputs.push_back(input);
    return DenseAttention(input);
  };
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 50; ++i) ids.push_back(5 + i * 37 % 400);
  ASSERT_TRUE((*plain)->Run(ids, keep, 0, 1).ok());
  ASSERT_TRUE((*rounded)->Run(ids, keep, 0, 1).ok());
  ASSERT_EQ(inputs.size(), 2u);
  EXPECT_TRUE(at::equal(inputs[0].q, inputs[1].q));
  for (const auto side : {&AttentionInput::k, &AttentionInput::v}) {
    const at::Tensor x = inputs[0].*side;
    const at::Tensor scale = std::get<0>(x.abs().max(-1, /*keepdim=*/true)) / 448;
    EXPECT_TRUE(at::equal(inputs[1].*side, (x / scale).to(at::kFloat8_e4m3fn).to(at::kFloat) * scale));
    EXPECT_FALSE(at::equal(inputs[1].*side, x));
  }
}

TEST(SequenceModelTest, CapturesHashedLayersOnly) {
  const auto model = LoadTiny("tiny-llama");
  ASSERT_NE(model, nullptr);
  const std::vector<int32_t> ids = {5, 6, 7, 8, 9};
  auto activations = Capture(*model, ids, /*first_layer=*/1, at::kCPU);
  ASSERT_TRUE(activations.ok()) << activations.status();
  const engine::ModelConfig& config = model->config();
  EXPECT_EQ(activations->q.sizes(), (at::IntArrayRef{config.num_layers - 1, config.num_q_heads, 5, config.head_dim}));
  EXPECT_EQ(activations->k.sizes(), (at::IntArrayRef{config.num_layers - 1, config.num_kv_heads, 5, config.head_dim}));
  EXPECT_EQ(ActivationBytes(config, 1, 5, at::kFloat),
            static_cast<int64_t>(activations->q.nbytes() + activations->k.nbytes()));
}

TEST(SequenceModelTest, AttentionErrorsEndTheRun) {
  const auto model = LoadTiny("tiny-llama");
  ASSERT_NE(model, nullptr);
  const auto fail = [](const AttentionInput&) -> absl::StatusOr<at::Tensor> { return absl::DataLossError("stop"); };
  EXPECT_EQ(model->Run({1, 2, 3}, fail, 0, 3).status().code(), absl::StatusCode::kDataLoss);
}

TEST(SequenceModelTest, RefusesIdsOutsideTheVocabulary) {
  const auto model = LoadTiny("tiny-llama");
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->Run({1, model->config().vocab_size}, Dense, 0, 1).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(RotateTest, RotatingByTheDifferenceMovesAToken) {
  const at::Tensor x = at::randn({2, 3, 8});
  const at::Tensor inv_freq = at::tensor({1.0f, 0.3f, 0.1f, 0.01f});
  const at::Tensor at_once = Rotate(x, at::arange(100, 103), inv_freq, 1);
  const at::Tensor moved = Rotate(Rotate(x, at::arange(3), inv_freq, 1), at::ones({3}) * 100, inv_freq, 1);
  EXPECT_TRUE(at::allclose(at_once, moved, 1e-4, 1e-4));
}

}  // namespace
}  // namespace spotlight::training
