#include "engine/model/random_weights.h"

#include <cmath>
#include <vector>

#include "engine/model/safetensors_values.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {

using testing::Each;

constexpr char kName[] = "model.layers.0.mlp.up_proj.weight";

std::vector<float> Weights(const std::string& name, uint64_t seed, int64_t begin, int64_t end) {
  std::vector<float> weights(end - begin);
  FillRandomWeights(name, seed, begin, end, weights.data());
  return weights;
}

TEST(RandomWeightsTest, AreCloseToNormalWithDeviationTwoHundredths) {
  const std::vector<float> weights = Weights(kName, 1, 0, 1 << 20);
  double sum = 0, squares = 0, products = 0;
  int within_one = 0, within_two = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    sum += weights[i];
    squares += weights[i] * weights[i];
    if (i > 0) products += weights[i] * weights[i - 1];
    within_one += std::abs(weights[i]) < 0.02;
    within_two += std::abs(weights[i]) < 0.04;
  }
  const double n = weights.size();
  EXPECT_NEAR(sum / n, 0, 1e-4);
  EXPECT_NEAR(std::sqrt(squares / n), 0.02, 1e-4);
  EXPECT_NEAR(products / squares, 0, 5e-3) << "neighbours are independent";
  EXPECT_NEAR(within_one / n, 0.683, 0.02);
  EXPECT_NEAR(within_two / n, 0.954, 0.01);
}

TEST(RandomWeightsTest, AnElementDependsOnItsIndexAlone) {
  const std::vector<float> whole = Weights(kName, 7, 0, 1001);
  for (const int64_t begin : {0, 1, 2, 499, 1000, 1001}) {
    for (const int64_t end : {begin, begin + 1, begin + 2, int64_t{1001}}) {
      if (end < begin || end > 1001) continue;
      EXPECT_EQ(Weights(kName, 7, begin, end), std::vector<float>(whole.begin() + begin, whole.begin() + end))
          << begin << ", " << end;
    }
  }
}

TEST(RandomWeightsTest, Bf16AndFloatHoldTheSameValues) {
  const std::vector<float> floats = Weights(kName, 3, 5, 1000);
  std::vector<uint16_t> bf16(floats.size());
  FillRandomWeightsBf16(kName, 3, 5, 1000, bf16.data());
  TensorView view;
  view.dtype = kernels::DType::kBF16;
  view.data = reinterpret_cast<const std::byte*>(bf16.data());
  view.num_bytes = bf16.size() * 2;
  std::vector<float> widened(floats.size());
  ReadFloats(view, 0, static_cast<int64_t>(floats.size()), widened.data());
  EXPECT_EQ(widened, floats);
}

TEST(RandomWeightsTest, DifferByNameAndSeed) {
  const std::vector<float> weights = Weights(kName, 1, 0, 64);
  EXPECT_EQ(Weights(kName, 1, 0, 64), weights);
  EXPECT_NE(Weights(kName, 2, 0, 64), weights);
  EXPECT_NE(Weights("model.layers.1.mlp.up_proj.weight", 1, 0, 64), weights);
}

TEST(RandomWeightsTest, NormWeightsAreOne) {
  for (const char* name : {"model.norm.weight", "model.layers.3.input_layernorm.weight",
                           "model.layers.3.post_attention_layernorm.weight"}) {
    EXPECT_THAT(Weights(name, 1, 0, 16), Each(1.0f));
  }
}

}  // namespace
}  // namespace spotlight::engine
