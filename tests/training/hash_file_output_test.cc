// What is written is what AsStored says it is.
#include "training/hash_file_output.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <limits>
#include <map>
#include <string>
#include <vector>

#include "engine/model/config.h"
#include "engine/model/hash_file.h"
#include "engine/model/safetensors_values.h"

namespace spotlight::training {
namespace {

constexpr char kModel[] = "tests/testdata/tiny-llama";  // 4 layers, 1 KV head of 64 with 3 query heads
constexpr char kFingerprint[] = "f";

using Tensors = std::map<std::string, at::Tensor>;

class HashFileOutputTest : public ::testing::TestWithParam<StoredWeights> {
 protected:
  HashFileOutputTest() {
    recipe_.key_hidden = recipe_.query_hidden = 32;
    recipe_.first_layer = 3;
    at::Generator generator = at::detail::createCPUGenerator(1);
    const auto random = [&](std::vector<int64_t> shape) { return at::randn(shape, generator, at::kFloat); };
    for (const auto& [side, in] : {std::make_pair("key.", 64), std::make_pair("query.", 192)}) {
      const std::string prefix = std::string("layers.3.") + side;
      encoders_[prefix + "w1"] = random({1, in, 32});
      encoders_[prefix + "b1"] = random({1, 32});
      encoders_[prefix + "w2"] = random({1, 32, 128}) * 1e-4;
      encoders_[prefix + "b2"] = random({1, 128});
      encoders_[prefix + "skip"] = random({1, in, 128});
    }
    encoders_["layers.3.logit_scale"] = at::full({1}, 0.1234567, at::kFloat);
  }

  absl::Status Write(StoredWeights weights) {
    return WriteHashFile(path_, encoders_, weights, HashMetadata(recipe_, *config_, kFingerprint));
  }

  const absl::StatusOr<engine::ModelConfig> config_ = engine::LoadModelConfig(kModel);
  const std::string path_ = ::testing::TempDir() + "hash_file_output_test_" + std::to_string(getpid());
  Recipe recipe_;
  Tensors encoders_;
};

at::Tensor Values(const engine::TensorView& view) {
  std::vector<float> values(engine::NumElements(view));
  engine::ReadFloats(view, 0, engine::NumElements(view), values.data());
  return at::from_blob(values.data(), view.shape, at::kFloat).clone();
}

TEST_P(HashFileOutputTest, TheEngineLoadsWhatWasJudged) {
  encoders_["layers.3.key.w2"].select(2, 7).zero_();  // an output that nothing reaches
  ASSERT_TRUE(Write(GetParam()).ok());
  const auto hash = engine::LoadHashFile(path_, *config_, kFingerprint, /*allow_untrained=*/false);
  ASSERT_TRUE(hash.ok()) << hash.status();
  const Tensors judged = AsStored(encoders_, GetParam());
  ASSERT_EQ(judged.size(), encoders_.size());
  const engine::LayerHashView& layer = hash->layers.at(3);
  for (const auto& [prefix, encoder] :
       {std::make_pair("layers.3.key.", &layer.key), std::make_pair("layers.3.query.", &layer.query)}) {
    const std::map<std::string, const engine::TensorView*> views = {{"w1", &encoder->w1},
                                                                    {"b1", &encoder->b1},
                                                                    {"w2", &encoder->w2},
                                                                    {"b2", &encoder->b2},
                                                                    {"skip", &encoder->skip}};
    for (const auto& [name, view] : views) {
      EXPECT_TRUE(at::equal(Values(*view), judged.at(prefix + name))) << prefix << name;
    }
  }
  EXPECT_EQ(layer.logit_scale.front(), judged.at("layers.3.logit_scale").item<float>());
}

TEST_P(HashFileOutputTest, RoundingStaysWithinHalfAStep) {
  const bool int8 = GetParam() == StoredWeights::kInt8;
  for (const auto& [name, stored] : AsStored(encoders_, GetParam())) {
    const at::Tensor& exact = encoders_.at(name);
    at::Tensor bound = exact.abs() / 256;  // of bf16
    if (int8 && exact.dim() == 3) bound = bound + exact.abs().amax({1}, /*keepdim=*/true) / 127 * 0.501;
    EXPECT_TRUE(((stored - exact).abs() <= bound).all().item<bool>()) << name;
  }
}

TEST_P(HashFileOutputTest, NumbersThatAreNotFiniteAreNotWritten) {
  encoders_["layers.3.query.skip"].view(-1)[5] = std::numeric_limits<float>::quiet_NaN();
  const absl::Status status = Write(GetParam());
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("layers.3.query.skip"));
}

INSTANTIATE_TEST_SUITE_P(Weights, HashFileOutputTest, ::testing::Values(StoredWeights::kInt8, StoredWeights::kBf16),
                         [](const auto& info) { return info.param == StoredWeights::kInt8 ? "Int8" : "Bf16"; });

}  // namespace
}  // namespace spotlight::training
