#include "training/attention_targets.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/budget.h"

namespace spotlight::training {
namespace {

constexpr int64_t kTokens = 5000;

QuerySites Sites() {
  // The fewest candidates that leave a choice; under and over 2% of the context being the minimum of 64; the end.
  return QuerySites({132, 133, 1000, 3199, 3201, kTokens - 1}, kTokens, at::kCPU);
}

void ExpectBruteForce(const at::Tensor& score) {
  const QuerySites sites = Sites();
  const at::Tensor mask = TopTokenMask(score, sites);
  const kernels::Budget budget;
  for (int64_t unit = 0; unit < score.size(0); ++unit) {
    for (int64_t n = 0; n < score.size(1); ++n) {
      const auto context = static_cast<int32_t>(sites.positions[n].item<int64_t>() + 1);
      const at::Tensor row = score[unit][n];
      const float* values = row.const_data_ptr<float>();
      std::vector<int64_t> tokens(kernels::NumCandidates(budget, context));
      std::iota(tokens.begin(), tokens.end(), budget.sink_tokens);
      std::stable_sort(tokens.begin(), tokens.end(), [&](int64_t a, int64_t b) { return values[a] > values[b]; });
      const int32_t count = kernels::NumSelected(budget, context);
      ASSERT_EQ(sites.num_select[n].item<int64_t>(), count);
      const at::Tensor mask_row = mask[unit][n];
      ASSERT_EQ(mask_row.sum().item<int64_t>(), count) << "position " << context - 1;
      for (int32_t i = 0; i < count; ++i) ASSERT_TRUE(mask_row[tokens[i]].item<bool>()) << context - 1 << " " << i;
    }
  }
}

TEST(AttentionTargetsTest, TopTokensAreThoseOfAFullSort) {
  ExpectBruteForce(at::randn({2, 6, kTokens}));
}

TEST(AttentionTargetsTest, OfEqualScoresTheLowerIndexWins) {
  ExpectBruteForce(at::randint(-3, 3, {2, 6, kTokens}).to(at::kFloat));
}

TEST(AttentionTargetsTest, MassIsTheGroupsSoftmaxOverAllVisibleTokens) {
  const at::Tensor q = at::randn({2, 3, 6, 8}, at::kDouble), k = at::randn({2, kTokens, 8}, at::kDouble);
  const QuerySites sites = Sites();
  const at::Tensor mass = CandidateMass(AttentionWeights(q, k, sites), sites);
  for (int64_t unit = 0; unit < 2; ++unit) {
    for (int64_t n = 0; n < 6; ++n) {
      const int64_t position = sites.positions[n].item<int64_t>();
      at::Tensor expected = at::zeros({kTokens}, at::kDouble);
      for (int64_t g = 0; g < 3; ++g) {
        const at::Tensor weight = (k[unit].matmul(q[unit][g][n]) / std::sqrt(8.0)).exp().narrow(0, 0, position + 1);
        expected.narrow(0, 0, position + 1).add_(weight / weight.sum());
      }
      expected.narrow(0, 0, 4).zero_();
      expected.narrow(0, position - 63, kTokens - position + 63).zero_();
      EXPECT_LT((mass[unit][n] - expected).abs().max().item<double>(), 1e-12) << position;
    }
  }
}

}  // namespace
}  // namespace spotlight::training
