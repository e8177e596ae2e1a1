// Query sets and attention to a selection, against double loops written from the definitions.
#include "training/evaluation/tail_queries.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace spotlight::training {
namespace {

constexpr int64_t kKvHeads = 2, kGroup = 3, kTokens = 40, kHeadDim = 16;
const std::vector<int64_t>& Positions() {
  static const auto* const kPositions = new std::vector<int64_t>{9, 20, 21, 39};
  return *kPositions;
}
constexpr kernels::Budget kBudget = {/*ratio=*/0.2, /*min_tokens=*/4, /*sink_tokens=*/2, /*recent_tokens=*/5};

struct Tensors {
  at::Tensor q = at::randn({kKvHeads * kGroup, static_cast<int64_t>(Positions().size()), kHeadDim});
  at::Tensor k = at::randn({kKvHeads, kTokens, kHeadDim});
  at::Tensor v = at::randn({kKvHeads, kTokens, kHeadDim});

  QuerySet Queries() const { return MakeQuerySet(3, q, k, v, at::tensor(Positions(), at::kLong), kBudget); }
  double Logit(int64_t head, int64_t n, int64_t token) const {
    double sum = 0;
    for (int64_t d = 0; d < kHeadDim; ++d) {
      sum += q[head][n][d].item<double>() * k[head / kGroup][token][d].item<double>();
    }
    return sum / std::sqrt(static_cast<double>(kHeadDim));
  }
};

TEST(MakeQuerySetTest, TokensAreSinksRecentCandidatesOrUnseen) {
  const QuerySet queries = Tensors().Queries();
  for (size_t n = 0; n < Positions().size(); ++n) {
    const auto context = static_cast<int32_t>(Positions()[n] + 1);
    const int32_t select = kernels::NumSelected(kBudget, context);
    EXPECT_EQ(queries.num_select[n].item<int64_t>(), select);
    for (int32_t token = 0; token < kTokens; ++token) {
      SCOPED_TRACE(testing::Message() << "token " << token << " of " << context);
      const bool competes = select > 0 && token >= 2 && token < context - 5;
      EXPECT_EQ(queries.candidates[n][token].item<bool>(), competes);
      EXPECT_EQ(queries.always[n][token].item<bool>(), token < context && !competes);
    }
  }
  EXPECT_EQ(queries.num_select[0].item<int64_t>(), 0) << "the first query is short enough to be dense";
  EXPECT_EQ(queries.layer, 3);
}

TEST(MakeQuerySetTest, LogitsAndProbabilitiesAreCausalAttentions) {
  const Tensors tensors;
  const QuerySet queries = tensors.Queries();
  for (int64_t head = 0; head < kKvHeads * kGroup; ++head) {
    for (size_t n = 0; n < Positions().size(); ++n) {
      double sum = 0;
      for (int64_t token = 0; token <= Positions()[n]; ++token) sum += std::exp(tensors.Logit(head, n, token));
      for (int64_t token = 0; token < kTokens; ++token) {
        const double logit = queries.logits[head / kGroup][head % kGroup][n][token].item<double>();
        const double prob = queries.probs[head / kGroup][head % kGroup][n][token].item<double>();
        if (token > Positions()[n]) {
          EXPECT_EQ(logit, -std::numeric_limits<double>::infinity());
          EXPECT_EQ(prob, 0);
        } else {
          EXPECT_NEAR(logit, tensors.Logit(head, n, token), 1e-5);
          EXPECT_NEAR(prob, std::exp(tensors.Logit(head, n, token)) / sum, 1e-6);
        }
      }
    }
  }
}

// shared: one set for the group.
void CheckAttention(bool shared, bool offset) {
  const Tensors tensors;
  const QuerySet queries = tensors.Queries();
  const auto count = static_cast<int64_t>(Positions().size());
  Selection selection;
  selection.mask = (at::rand({kKvHeads, shared ? 1 : kGroup, count, kTokens}) < 0.4).logical_and(queries.candidates);
  if (offset) selection.logit_offset = at::randn({kKvHeads, kGroup, count, kTokens});
  const at::Tensor out = AttendSelected(queries, selection);
  ASSERT_EQ(out.sizes(), (at::IntArrayRef{kKvHeads * kGroup, count, kHeadDim}));
  for (int64_t head = 0; head < kKvHeads * kGroup; ++head) {
    const int64_t kv = head / kGroup, group = head % kGroup;
    for (int64_t n = 0; n < count; ++n) {
      double sum = 0;
      std::vector<double> expected(kHeadDim, 0);
      for (int64_t token = 0; token <= Positions()[n]; ++token) {
        const bool selected = selection.mask[kv][shared ? 0 : group][n][token].item<bool>();
        if (!selected && !queries.always[n][token].item<bool>()) continue;
        double logit = tensors.Logit(head, n, token);
        if (selected && offset) logit += selection.logit_offset[kv][group][n][token].item<double>();
        sum += std::exp(logit);
        for (int64_t d = 0; d < kHeadDim; ++d) expected[d] += std::exp(logit) * tensors.v[kv][token][d].item<double>();
      }
      for (int64_t d = 0; d < kHeadDim; ++d) EXPECT_NEAR(out[head][n][d].item<double>(), expected[d] / sum, 1e-5);
    }
  }
}

TEST(AttendSelectedTest, AGroupsSharedSetIsAttendedToByEveryHead) {
  CheckAttention(/*shared=*/true, /*offset=*/false);
}
TEST(AttendSelectedTest, EveryQueryHeadMayHaveItsOwnSet) {
  CheckAttention(/*shared=*/false, /*offset=*/false);
}
TEST(AttendSelectedTest, OffsetsAreAddedToSelectedTokensOnly) {
  CheckAttention(/*shared=*/false, /*offset=*/true);
}

}  // namespace
}  // namespace spotlight::training
