// Selectors against loops in double over tiny query sets.
#include <ATen/ops/allclose.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <limits>
#include <set>

#include "tests/training/evaluation/selectors/random_queries.h"
#include "training/evaluation/selectors/exact.h"
#include "training/evaluation/selectors/lsh.h"
#include "training/evaluation/selectors/magicpig.h"
#include "training/evaluation/selectors/quest.h"
#include "training/evaluation/selectors/rotation.h"

namespace spotlight::training {
namespace {

constexpr int64_t kTokens = 83;  // no multiple of a page
constexpr double kRatio = 0.2;
// The first two see too little to compete, the third all but everything.
const std::vector<int64_t> kPositions = {4, 9, 12, 40, 60, 81, 82};

QuerySet Queries(uint64_t seed = 1) {
  return RandomQueries(kTokens, kPositions, kRatio, seed);
}

at::Tensor Bools(const std::vector<int64_t>& values) {
  return at::tensor(values) != 0;
}

TEST(TopCandidatesTest, OfEqualScoresTakesTheLowerIndex) {
  const at::Tensor score = at::tensor({5.f, 1.f, 3.f, 3.f, 9.f, 3.f, 1.f, 3.f}).view({1, 8});
  const at::Tensor candidates = Bools({0, 1, 1, 1, 1, 1, 1, 1}).view({1, 8});
  EXPECT_TRUE(
      TopCandidates(score, candidates, at::tensor({int64_t{3}})).equal(Bools({0, 0, 1, 1, 1, 0, 0, 0}).view({1, 8})));
  const at::Tensor equal = at::zeros({1, 8});
  EXPECT_TRUE(
      TopCandidates(equal, candidates, at::tensor({int64_t{2}})).equal(Bools({0, 1, 1, 0, 0, 0, 0, 0}).view({1, 8})));
}

TEST(TopCandidatesTest, TakesAllCandidatesWhereThereIsRoomForMore) {
  const at::Tensor score = Randn({2, 6}, 3);
  const at::Tensor candidates = Bools({0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0}).view({2, 6});
  EXPECT_TRUE(TopCandidates(score, candidates, at::tensor({int64_t{5}, int64_t{2}})).equal(candidates));
  EXPECT_TRUE(TopCandidates(score, candidates, at::tensor({int64_t{500}, int64_t{500}})).equal(candidates));
}

TEST(TopCandidatesTest, RowsOfNothingToSelectStayEmpty) {
  const at::Tensor score = Randn({2, 4}, 3);
  const at::Tensor candidates = Bools({1, 1, 1, 1, 1, 1, 1, 1}).view({2, 4});
  const at::Tensor one = TopCandidates(score, candidates, at::tensor({int64_t{0}, int64_t{1}}));
  EXPECT_EQ(one[0].sum().item<int64_t>(), 0);
  EXPECT_EQ(one[1].sum().item<int64_t>(), 1);
  EXPECT_EQ(TopCandidates(score, candidates, at::tensor({int64_t{0}, int64_t{0}})).sum().item<int64_t>(), 0);
}

TEST(TopCandidatesTest, ScoresOfMinusInfinityAreStillCandidates) {
  const float minus_infinity = -std::numeric_limits<float>::infinity();
  const at::Tensor score = at::tensor({minus_infinity, 1.f, minus_infinity, minus_infinity}).view({1, 4});
  const at::Tensor candidates = Bools({0, 1, 1, 1}).view({1, 4});
  EXPECT_TRUE(TopCandidates(score, candidates, at::tensor({int64_t{2}})).equal(Bools({0, 1, 1, 0}).view({1, 4})));
}

TEST(SelectorsTest, OracleARanksEachHeadsLogits) {
  const QuerySet queries = Queries();
  ExpectSelects(MakeOracleA().get(), queries, kRatio, /*by_head=*/true,
                [&](int64_t head, int64_t g, int64_t n, int64_t token) { return Dot(queries, head, g, n, token); });
}

TEST(SelectorsTest, OracleBRanksTheGroupsSoftmaxMass) {
  const QuerySet queries = Queries();
  const double scale = 1 / std::sqrt(static_cast<double>(kHeadDim));
  ExpectSelects(MakeOracleB().get(), queries, kRatio, /*by_head=*/false,
                [&](int64_t head, int64_t, int64_t n, int64_t token) {
                  double mass = 0;
                  for (int64_t g = 0; g < kGroup; ++g) {
                    double sum = 0;
                    for (int64_t other = 0; other <= kPositions[n]; ++other) {
                      sum += std::exp(scale * Dot(queries, head, g, n, other));
                    }
                    mass += std::exp(scale * Dot(queries, head, g, n, token)) / sum;
                  }
                  return mass;
                });
}

TEST(SelectorsTest, WindowTakesTheMostRecentCandidates) {
  const QuerySet queries = Queries();
  ExpectSelects(MakeWindow().get(), queries, kRatio, /*by_head=*/false,
                [](int64_t, int64_t, int64_t, int64_t token) { return static_cast<double>(token); });
}

TEST(SelectorsTest, RandomTakesAsManyAndDependsOnItsPlaceAlone) {
  const QuerySet queries = Queries();
  const auto selector = MakeRandom(7);
  const at::Tensor mask = selector->Select(queries)->mask;
  EXPECT_TRUE(mask.sum(-1).equal(queries.num_select.expand({kKvHeads, 1, -1})));
  EXPECT_EQ(mask.logical_and(queries.candidates.logical_not()).sum().item<int64_t>(), 0);
  EXPECT_FALSE(mask[0].equal(mask[1]));
  EXPECT_FALSE(mask.equal(MakeRandom(8)->Select(queries)->mask));
  // The same query in another chunk.
  const QuerySet one = RandomQueries(kTokens, {60}, kRatio, 1);
  EXPECT_TRUE(selector->Select(one)->mask.select(2, 0).equal(mask.select(2, 4)));
}

TEST(SelectorsTest, RandomReachesEveryCandidateAboutEquallyOften) {
  const QuerySet queries = RandomQueries(kTokens, {82}, kRatio, 1);
  at::Tensor times = at::zeros({kTokens}, at::kLong);
  constexpr int64_t kSeeds = 600;
  for (int64_t seed = 0; seed < kSeeds; ++seed) times += MakeRandom(seed)->Select(queries)->mask[0][0][0];
  const double share = 17.0 / 76;  // K = ceil(.2 * 83), candidates [2, 78)
  for (int64_t token = 2; token < 78; ++token) {
    EXPECT_NEAR(times[token].item<double>() / kSeeds, share, 5 * std::sqrt(share * (1 - share) / kSeeds)) << token;
  }
}

// Which of `bits` signs a token and a query share.
double SharedBits(const QuerySet& queries, const at::Tensor& rotations, int64_t head, int64_t g, int64_t n,
                  int64_t token) {
  std::vector<double> centre(kHeadDim);
  for (int64_t d = 0; d < kHeadDim; ++d) {
    for (int64_t t = 0; t < kTokens; ++t) centre[d] += At(queries.k, {head, t, d}) / kTokens;
  }
  double shared = 0;
  for (int64_t b = 0; b < rotations.size(1); ++b) {
    double key = 0, query = 0;
    for (int64_t d = 0; d < kHeadDim; ++d) {
      key += (At(queries.k, {head, token, d}) - centre[d]) * At(rotations, {d, b});
      query += At(queries.q, {head, g, n, d}) * At(rotations, {d, b});
    }
    shared += (key >= 0) == (query >= 0) ? 1 : 0;
  }
  return shared;
}

TEST(SelectorsTest, LshCountsSharedBitsOfCentredKeys) {
  constexpr int32_t kBits = 6;  // few: ties everywhere
  const QuerySet queries = RandomQueries(kTokens, {40, 82}, kRatio, 5);
  const at::Tensor rotations = LshRotations(kHeadDim, kBits, 11);
  ExpectSelects(MakeLshByHead(kBits, 11).get(), queries, kRatio, /*by_head=*/true,
                [&](int64_t head, int64_t g, int64_t n, int64_t token) {
                  return SharedBits(queries, rotations, head, g, n, token);
                });
  ExpectSelects(MakeLsh(kBits, 11).get(), queries, kRatio, /*by_head=*/false,
                [&](int64_t head, int64_t, int64_t n, int64_t token) {
                  double shared = 0;
                  for (int64_t g = 0; g < kGroup; ++g) shared += SharedBits(queries, rotations, head, g, n, token);
                  return shared;
                });
}

TEST(RotationTest, RotationsAreOrthogonalSideBySide) {
  const at::Tensor rotations = LshRotations(8, 20, 3);
  ASSERT_EQ(rotations.sizes(), (at::IntArrayRef{8, 20}));
  for (const int64_t begin : {0, 8}) {
    const at::Tensor one = rotations.narrow(1, begin, 8);
    const at::Tensor gram = one.t().matmul(one);
    for (int64_t i = 0; i < 8; ++i) {
      for (int64_t j = 0; j < 8; ++j) EXPECT_NEAR(At(gram, {i, j}), i == j ? 1 : 0, 1e-5);
    }
  }
}

double QuestBound(const QuerySet& queries, int64_t head, int64_t g, int64_t n, int64_t token) {
  const int64_t begin = token / 16 * 16, end = std::min<int64_t>(begin + 16, kTokens);
  double bound = 0;
  for (int64_t d = 0; d < kHeadDim; ++d) {
    double lowest = At(queries.k, {head, begin, d}), highest = lowest;
    for (int64_t t = begin; t < end; ++t) {
      lowest = std::min(lowest, At(queries.k, {head, t, d}));
      highest = std::max(highest, At(queries.k, {head, t, d}));
    }
    const double q = At(queries.q, {head, g, n, d});
    bound += std::max(q * lowest, q * highest);
  }
  return bound;
}

TEST(SelectorsTest, QuestRanksPagesByTheBoundOfTheirLogits) {
  const QuerySet queries = Queries(9);
  ExpectSelects(
      MakeQuest().get(), queries, kRatio, /*by_head=*/true,
      [&](int64_t head, int64_t g, int64_t n, int64_t token) { return QuestBound(queries, head, g, n, token); });
  ExpectSelects(MakeQuestByGroup().get(), queries, kRatio, /*by_head=*/false,
                [&](int64_t head, int64_t, int64_t n, int64_t token) {
                  double sum = 0;
                  for (int64_t g = 0; g < kGroup; ++g) sum += QuestBound(queries, head, g, n, token);
                  return sum;
                });
}

// Sampled tokens, weighted by 1 / u, stand for all tokens: over many draws of the tables every candidate's mean weight
// is 1. That is both what is sampled and the probability that it claims.
TEST(MagicPigTest, CorrectsForTheProbabilityOfHavingSampled) {
  const QuerySet queries = RandomQueries(60, {59}, /*ratio=*/1.0, 21);
  MagicPigOptions options;
  options.wide_bits = 2;
  options.max_tables = 12;
  constexpr int64_t kDraws = 1500;
  at::Tensor sum = at::zeros(queries.logits.sizes()), squares = sum.clone();
  for (int64_t draw = 0; draw < kDraws; ++draw) {
    options.seed = draw;
    const auto selection = MakeMagicPig(options)->Select(queries);
    ASSERT_TRUE(selection.ok());
    ASSERT_EQ(selection->mask.logical_and(queries.candidates.logical_not()).sum().item<int64_t>(), 0);
    const at::Tensor weight = selection->mask * selection->logit_offset.exp();
    sum += weight;
    squares += weight.square();
  }
  const at::Tensor mean = sum / kDraws;
  const at::Tensor deviation = ((squares / kDraws - mean.square()).clamp_min(0) / kDraws).sqrt();
  int64_t checked = 0;
  for (int64_t head = 0; head < kKvHeads; ++head) {
    for (int64_t g = 0; g < kGroup; ++g) {
      for (int64_t token = 2; token < 55; ++token) {
        const double error = At(deviation, {head, g, 0, token});
        if (error > 0.1) continue;  // too rarely sampled to say
        ++checked;
        EXPECT_NEAR(At(mean, {head, g, 0, token}), 1, 5 * error + 5e-3) << head << " " << g << " " << token;
      }
    }
  }
  EXPECT_GT(checked, 250);
}

TEST(MagicPigTest, SamplesAboutAsManyTokensAsTheBudget) {
  std::vector<int64_t> positions(100);
  std::iota(positions.begin(), positions.end(), 1900);
  const QuerySet queries = QueriesAt(RandomAttention(2000, 31), positions, SmallBudget(0.05));
  const auto selection = MakeMagicPig({})->Select(queries);
  ASSERT_TRUE(selection.ok());
  const at::Tensor count = selection->mask.sum(-1).to(at::kFloat).mean(-1);
  const double wanted = queries.num_select.to(at::kFloat).mean().item<double>();
  for (int64_t head = 0; head < kKvHeads; ++head) {
    for (int64_t g = 0; g < kGroup; ++g) {
      EXPECT_GT(At(count, {head, g}), wanted) << "stops at the first tables that give as many";
      EXPECT_LT(At(count, {head, g}), 1.35 * wanted);
    }
  }
}

// A selector that keeps what it computed for keys must see that others came, and that fewer of the same are asked.
TEST(SelectorsTest, KeptKeysAreThoseOfTheQuestion) {
  const AttentionInput first = RandomAttention(kTokens, 41), second = RandomAttention(kTokens, 51);
  const kernels::Budget budget = SmallBudget(kRatio);
  const std::vector<int64_t> positions = {50, 60};
  for (const auto& make :
       {+[] { return MakeLsh(32, 1); }, +[] { return MakeQuest(); }, +[] { return MakeMagicPig({}); }}) {
    const auto kept = make();
    const QuerySet queries = QueriesAt(first, positions, budget), others = QueriesAt(second, positions, budget);
    const at::Tensor whole = kept->Select(queries)->mask;
    EXPECT_TRUE(kept->Select(others)->mask.equal(make()->Select(others)->mask)) << kept->name();
    EXPECT_TRUE(kept->Select(queries)->mask.equal(whole)) << kept->name();
    AttentionInput shorter = first;
    shorter.k = first.k.narrow(1, 0, 61);
    shorter.v = first.v.narrow(1, 0, 61);
    EXPECT_TRUE(kept->Select(QueriesAt(shorter, positions, budget))->mask.equal(whole.narrow(-1, 0, 61)))
        << kept->name();
  }
}

}  // namespace
}  // namespace spotlight::training
