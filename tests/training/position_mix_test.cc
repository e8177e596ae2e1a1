#include "training/position_mix.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

#include "training/sequence_model.h"

namespace spotlight::training {
namespace {

constexpr int64_t kTokens = 96, kDim = 16;

std::vector<float> Frequencies() {
  std::vector<float> inv_freq;
  for (int i = 0; i < kDim / 2; ++i) inv_freq.push_back(std::pow(1000.0f, -2.0f * i / kDim));
  return inv_freq;
}

// The number of places where neighbours are further apart than they were, and the first position.
struct Form {
  int64_t jumps, first;
};

Form FormOf(const std::vector<int64_t>& positions) {
  Form form{0, positions.front()};
  for (size_t t = 1; t < positions.size(); ++t) form.jumps += positions[t] != positions[t - 1] + 1;
  return form;
}

TEST(PositionMixTest, DrawsEveryFormOfIncreasingPositionsWithinTheTarget) {
  std::set<std::string> forms;
  for (int32_t step = 0; step < 200; ++step) {
    StepRandom random(1, Draw::kPositions, step);
    const std::vector<int64_t> positions = MixedPositions(kTokens, 1000, &random);
    if (positions.empty()) {
      forms.insert("unmoved");
      continue;
    }
    ASSERT_EQ(positions.size(), kTokens);
    for (int64_t t = 1; t < kTokens; ++t) ASSERT_GT(positions[t], positions[t - 1]);
    EXPECT_GE(positions.front(), 0);
    EXPECT_LT(positions.back(), 1000);
    const Form form = FormOf(positions);
    forms.insert(form.jumps == 0 ? "offset" : form.jumps == 1 ? "jump" : "scattered");
  }
  EXPECT_EQ(forms, (std::set<std::string>{"unmoved", "offset", "jump", "scattered"}));
}

TEST(PositionMixTest, ReachesBothEndsOfTheTarget) {
  int64_t least = 1000, most = 0;
  for (int32_t step = 0; step < 2000; ++step) {
    StepRandom random(1, Draw::kPositions, step);
    const std::vector<int64_t> positions = MixedPositions(kTokens, kTokens + 20, &random);
    if (positions.empty()) continue;
    least = std::min(least, positions.front());
    most = std::max(most, positions.back());
  }
  EXPECT_EQ(least, 0);
  EXPECT_EQ(most, kTokens + 19);
}

TEST(PositionMixTest, LeavesSequencesThatFillTheTargetAlone) {
  for (int32_t step = 0; step < 20; ++step) {
    StepRandom random(1, Draw::kPositions, step);
    EXPECT_TRUE(MixedPositions(kTokens, kTokens, &random).empty());
  }
}

TEST(PositionMixTest, DrawsFromSeedStepAndRankAlone) {
  const auto draw = [](uint64_t seed, int32_t step, int32_t rank) {
    StepRandom random(seed, Draw::kPositions, step, rank);
    return ScatteredPositions(kTokens, 1000, &random);
  };
  EXPECT_EQ(draw(1, 2, 3), draw(1, 2, 3));
  EXPECT_NE(draw(1, 2, 3), draw(2, 2, 3));
  EXPECT_NE(draw(1, 2, 3), draw(1, 3, 3));
  EXPECT_NE(draw(1, 2, 3), draw(1, 2, 4));
}

TEST(PositionMixTest, MovesRotatedVectorsToWhereTheyWouldHaveBeenRotated) {
  const at::Tensor x = at::randn({3, kTokens, kDim}, at::kDouble);
  const at::Tensor inv_freq = at::tensor(Frequencies(), at::kFloat);
  StepRandom random(7, Draw::kPositions, 0);
  const std::vector<int64_t> positions = ScatteredPositions(kTokens, 100000, &random);
  std::vector<int64_t> as_read(kTokens);
  for (int64_t t = 0; t < kTokens; ++t) as_read[t] = t;
  const auto rotate = [&](const std::vector<int64_t>& at) {
    return Rotate(x.to(at::kFloat), at::tensor(at, at::kLong), inv_freq, 1.0);
  };
  const PhaseShift shift(positions, Frequencies(), at::kFloat);
  EXPECT_TRUE(at::allclose(shift.Apply(rotate(as_read)), rotate(positions), 0, 2e-6));
}

TEST(PositionMixTest, KeepsAttentionWithinSegmentsThatMoveTogether) {
  const at::Tensor q = at::randn({kTokens, kDim}, at::kDouble), k = at::randn({kTokens, kDim}, at::kDouble);
  std::vector<int64_t> positions(kTokens);
  constexpr int64_t kJump = 40;
  for (int64_t t = 0; t < kTokens; ++t) positions[t] = t + (t < kJump ? 500 : 9000);
  const PhaseShift shift(positions, Frequencies(), at::kDouble);
  const at::Tensor before = q.matmul(k.t()), after = shift.Apply(q).matmul(shift.Apply(k).t());
  const auto segment = [](const at::Tensor& x, int64_t row, int64_t column, int64_t rows, int64_t columns) {
    return x.narrow(0, row, rows).narrow(1, column, columns);
  };
  const int64_t rest = kTokens - kJump;
  // Angles are fp32 products, as in the models.
  EXPECT_TRUE(at::allclose(segment(before, 0, 0, kJump, kJump), segment(after, 0, 0, kJump, kJump), 0, 1e-2));
  EXPECT_TRUE(
      at::allclose(segment(before, kJump, kJump, rest, rest), segment(after, kJump, kJump, rest, rest), 0, 1e-2));
  EXPECT_FALSE(at::allclose(segment(before, kJump, 0, rest, kJump), segment(after, kJump, 0, rest, kJump), 0, 1.0));
}

TEST(PositionMixTest, ShiftsChosenTokensAsItShiftsAll) {
  const at::Tensor x = at::randn({2, kTokens, kDim});
  StepRandom random(7, Draw::kPositions, 1);
  const PhaseShift shift(ScatteredPositions(kTokens, 1000, &random), Frequencies(), at::kFloat);
  const at::Tensor chosen = at::tensor({3, 50, 50, 95}, at::kLong);
  EXPECT_TRUE(
      at::allclose(shift.At(chosen).Apply(x.index_select(1, chosen)), shift.Apply(x).index_select(1, chosen), 0, 1e-6));
}

}  // namespace
}  // namespace spotlight::training
