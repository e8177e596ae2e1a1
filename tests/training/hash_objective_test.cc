// Losses and gradients against float64 autograd (tools/goldens/make_hash_training.py), in float64.
#include "training/hash_objective.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "tests/training/golden_tensors.h"

namespace spotlight::training {
namespace {

struct GoldenCase {
  const char* name;
  EncoderKind encoder;
  Loss loss;
  QueryForm query;
  bool per_query_head;
  int32_t hash_bits, num_planes, prefix_bits;
  float prefix_weight;
};

void PrintTo(const GoldenCase& golden, std::ostream* out) {
  *out << golden.name;
}

const std::map<std::string, at::Tensor>& Golden() {
  static const auto& golden = *new std::map<std::string, at::Tensor>(testing::ReadGolden("hash_training.safetensors"));
  return golden;
}

at::Tensor Find(const std::string& name) {
  const auto found = Golden().find(name);
  EXPECT_NE(found, Golden().end()) << name;
  return found->second;
}

class HashObjectiveGoldenTest : public ::testing::TestWithParam<GoldenCase> {};

TEST_P(HashObjectiveGoldenTest, EqualsAutogradInDoubleForUnitsTogetherAndAlone) {
  const GoldenCase& golden = GetParam();
  const at::Tensor q = Find("q").to(at::kDouble), k = Find("k").to(at::kDouble);  // [U, G, N, D], [U, T, D]
  Recipe recipe;
  recipe.encoder = golden.encoder;
  recipe.loss = golden.loss;
  recipe.query = golden.query;
  recipe.per_query_head = golden.per_query_head;
  recipe.hash_bits = golden.hash_bits;
  recipe.num_planes = golden.num_planes;
  recipe.prefix_bits = golden.prefix_bits;
  recipe.prefix_weight = golden.prefix_weight;
  recipe.key_hidden = recipe.query_hidden = 16;
  HashShape shape;
  shape.num_layers = 1;
  shape.num_kv_heads = static_cast<int32_t>(q.size(0));
  shape.num_q_heads = static_cast<int32_t>(q.size(0) * q.size(1));
  shape.head_dim = static_cast<int32_t>(q.size(3));
  const HashLayout layout(recipe, shape);

  const std::string prefix = std::string(golden.name) + ".";
  const auto given = [&](const std::string& name) { return Find(prefix + name).to(at::kDouble); };
  at::Tensor flat = at::zeros({layout.num_units(), layout.row}, at::kDouble);
  for (auto& [name, view] : ViewsOf(layout, flat)) view.copy_(given("parameter." + name));
  UnitBatch units;
  units.parameters = flat;
  units.rotations = given("rotations");
  units.centring = {given("centring.key_mean"), given("centring.key_scale"), given("centring.query_mean"),
                    given("centring.query_scale")};
  units.q = golden.per_query_head ? q.flatten(0, 1).unsqueeze(1) : q;
  units.k = k.repeat_interleave(layout.units_per_kv_head, 0);

  const at::Tensor at = Find("positions");
  const QuerySites sites(std::vector<int64_t>(at.const_data_ptr<int64_t>(), at.const_data_ptr<int64_t>() + at.numel()),
                         k.size(1), at::kCPU);
  PairDraws pairs;
  pairs.rank = Find("pairs.rank");
  pairs.other = Find("pairs.other");
  const RankingTarget target =
      TargetOf(recipe.loss, CandidateMass(AttentionWeights(units.q, units.k, sites), sites), sites, pairs);
  at::Tensor gradient = at::zeros_like(flat);
  const at::Tensor loss = LossAndGradient(recipe, layout, units, sites, target, &gradient);

  const auto distance = [](const at::Tensor& a, const at::Tensor& b) {
    return ((a - b).norm() / b.norm()).item<double>();
  };
  EXPECT_LT(distance(loss, given("loss")), 1e-12) << loss << given("loss");
  for (int64_t unit = 0; unit < layout.num_units(); ++unit) {
    const auto own = [&](const at::Tensor& x) { return x.defined() ? x.narrow(0, unit, 1) : x; };
    const UnitBatch alone = {own(flat), units.rotations, units.centring.Of(unit, 1), own(units.q), own(units.k)};
    const RankingTarget own_target = {own(target.weights), own(target.better), own(target.worse),
                                      own(target.pair_share)};
    at::Tensor own_gradient = at::zeros_like(own(flat));
    const at::Tensor own_loss = LossAndGradient(recipe, layout, alone, sites, own_target, &own_gradient);
    EXPECT_LT(distance(own_loss, own(loss)), 1e-13) << "unit " << unit << " by itself";
    EXPECT_LT(distance(own_gradient, own(gradient)), 1e-12) << "unit " << unit << " by itself";
  }
  for (const auto& [name, view] : ViewsOf(layout, gradient)) {
    const at::Tensor expected = given("gradient." + name);
    ASSERT_GT(expected.norm().item<double>(), 0) << name;
    EXPECT_LT(distance(view, expected), 1e-11) << name;
  }
}

constexpr auto kZ = EncoderKind::kZ;
constexpr auto kLinear = EncoderKind::kLinear;
constexpr auto kReal = QueryForm::kReal;
constexpr auto kBits = QueryForm::kBits;
INSTANTIATE_TEST_SUITE_P(
    Cases, HashObjectiveGoldenTest,
    ::testing::Values(GoldenCase{"z", kZ, Loss::kCrossEntropy, kReal, false, 64, 4, 32, 0.5f},
                      GoldenCase{"z_bits", kZ, Loss::kCrossEntropy, kBits, false, 32, 4, 0, 0},
                      GoldenCase{"linear_per_query_head", kLinear, Loss::kSoftTopK, kReal, true, 32, 3, 0, 0},
                      GoldenCase{"linear", kLinear, Loss::kCrossEntropy, kBits, false, 64, 4, 32, 1},
                      GoldenCase{"linear_real", kLinear, Loss::kBradleyTerry, kReal, false, 32, 4, 0, 0},
                      GoldenCase{"paper", EncoderKind::kPaper, Loss::kBradleyTerry, kBits, true, 32, 4, 0, 0}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace spotlight::training
