// What a trainer exports, given to the kernels' reference: the same codes and planes, and the figures that the trainer
// reports of itself.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/sin.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/budget.h"
#include "kernels/planes.h"
#include "kernels/reference/encode_and_append.h"
#include "tests/training/synthetic_activations.h"
#include "training/hash_encoders.h"
#include "training/hash_layout.h"
#include "training/hash_objective.h"
#include "training/hash_trainer.h"

namespace spotlight::training {
namespace {

constexpr int64_t kTokens = 384;
constexpr int32_t kWords = 2;

[[maybe_unused]] const bool kOneThread = [] {
  at::set_num_threads(1);
  return true;
}();

using Tensors = std::map<std::string, at::Tensor>;

Recipe SmallRecipe(EncoderKind encoder, QueryForm query, bool per_query_head) {
  Recipe recipe;
  recipe.encoder = encoder;
  recipe.query = query;
  recipe.per_query_head = per_query_head;
  recipe.hash_bits = 32 * kWords;
  recipe.key_hidden = recipe.query_hidden = 32;
  recipe.steps = 30;
  recipe.tokens_per_sequence = kTokens;
  recipe.queries_per_step = 32;
  return recipe;
}

Activations Sequence(uint64_t seed) {
  return testing::RandomActivations(testing::SmallShape(), kTokens, seed);
}

std::unique_ptr<HashTrainer> Trained(const Recipe& recipe) {
  auto trainer = HashTrainer::Create(recipe, testing::SmallShape(), {Sequence(100)}, at::kCPU);
  EXPECT_TRUE(trainer.ok()) << trainer.status();
  for (int32_t step = 0; step < 10; ++step) (*trainer)->Step(Sequence(step), step);
  return *std::move(trainer);
}

std::string Name(const Recipe& recipe, int32_t layer, const std::string& tensor) {
  return "layers." + std::to_string(recipe.first_layer + layer) + "." + tensor;
}

kernels::EncoderWeights WeightsOf(const Recipe& recipe, const Tensors& exported, int32_t layer,
                                  const std::string& side) {
  const auto data = [&](const char* name) -> const void* {
    const auto found = exported.find(Name(recipe, layer, side + name));
    return found == exported.end() ? nullptr : found->second.const_data_ptr<float>();
  };
  kernels::EncoderWeights weights;
  weights.w1 = data(".w1");
  weights.b1 = data(".b1");
  weights.w2 = data(".w2");
  weights.b2 = data(".b2");
  weights.skip = data(".skip");
  if (weights.b1 != nullptr) weights.hidden = exported.at(Name(recipe, layer, side + ".b1")).size(1);
  return weights;
}

// What the reference makes of one layer's activations.
struct Encoded {
  std::vector<uint32_t> codes;    // [T, Hkv, W]
  std::vector<uint32_t> planes;   // [T, Hkv, J, W]
  std::vector<float> plane_unit;  // [T, Hkv]
};

Encoded EncodeByReference(const Recipe& recipe, const HashShape& shape, const Tensors& exported, int32_t layer,
                          const Activations& sequence) {
  const int64_t heads = shape.num_kv_heads, dim = shape.head_dim, pages = kTokens / kernels::kPageTokens;
  const at::Tensor q = sequence.q[layer].transpose(0, 1).contiguous(),
                   k = sequence.k[layer].transpose(0, 1).contiguous();
  kernels::HashWeights hash;
  hash.hash_words = kWords;
  hash.num_planes = recipe.num_planes;
  hash.plane_step = PlaneStep(recipe.num_planes);
  hash.key = WeightsOf(recipe, exported, layer, "key");
  hash.query = WeightsOf(recipe, exported, layer, "query");
  const std::vector<int32_t> positions(kTokens, 0);  // the activations are rotated already
  std::vector<int64_t> slots(kTokens);
  std::iota(slots.begin(), slots.end(), 0);
  std::vector<float> kv(pages * heads * kernels::kPageTokens * 2 * dim), q_out(q.numel());
  std::vector<uint32_t> codes(pages * heads * kernels::kPageTokens * kWords), prefix(codes.size() / kWords);
  Encoded encoded;
  encoded.planes.resize(kTokens * heads * recipe.num_planes * kWords);
  encoded.plane_unit.resize(kTokens * heads);

  kernels::EncodeAndAppendParams params;
  params.num_tokens = params.num_plane_tokens = kTokens;
  params.num_q_heads = shape.num_q_heads;
  params.num_kv_heads = shape.num_kv_heads;
  params.head_dim = shape.head_dim;
  params.q = q.const_data_ptr<float>();
  params.k = params.v = k.const_data_ptr<float>();
  params.q_stride = shape.num_q_heads * dim;
  params.k_stride = params.v_stride = heads * dim;
  params.inv_freq = shape.inv_freq.data();
  params.positions = positions.data();
  params.slots = slots.data();
  params.hash = &hash;
  params.pages = {kv.data(), codes.data(), prefix.data(), static_cast<int32_t>(pages)};
  params.q_out = q_out.data();
  params.planes = encoded.planes.data();
  params.plane_unit = encoded.plane_unit.data();
  kernels::reference::EncodeAndAppend(params);
  for (int64_t token = 0; token < kTokens; ++token) {
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t entry =
          (token / kernels::kPageTokens * heads + head) * kernels::kPageTokens + token % kernels::kPageTokens;
      encoded.codes.insert(encoded.codes.end(), &codes[entry * kWords], &codes[entry * kWords] + kWords);
    }
  }
  return encoded;
}

int64_t RawScore(const Recipe& recipe, const Encoded& encoded, int64_t heads, int64_t query, int64_t key,
                 int64_t head) {
  return kernels::RawScore(&encoded.codes[(key * heads + head) * kWords],
                           &encoded.planes[(query * heads + head) * recipe.num_planes * kWords], kWords, kWords,
                           recipe.num_planes, kernels::AsymmetricTopPlaneWeight(recipe.num_planes));
}

// A trainer's units from its state.
struct Internals {
  Internals(const Recipe& recipe, const HashTrainer& trainer)
      : layout(recipe, testing::SmallShape()), state(trainer.State()) {
    units.parameters = at::zeros({layout.num_units(), layout.row}, at::kFloat);
    for (auto& [name, view] : ViewsOf(layout, units.parameters)) view.copy_(state.at("parameter." + name));
    units.rotations = state.at("rotations");
    units.centring = {state.at("centring.key_mean"), state.at("centring.key_scale"), state.at("centring.query_mean"),
                      state.at("centring.query_scale")};
  }
  HashLayout layout;
  Tensors state;
  UnitBatch units;
};

struct ExportCase {
  const char* name;
  EncoderKind encoder;
  QueryForm query;
  bool per_query_head;
};

void PrintTo(const ExportCase& exported, std::ostream* out) {
  *out << exported.name;
}

class HashExportFormTest : public ::testing::TestWithParam<ExportCase> {};

TEST_P(HashExportFormTest, RawInputsGiveWhatCentredInputsGave) {
  const Recipe recipe = SmallRecipe(GetParam().encoder, GetParam().query, GetParam().per_query_head);
  const HashShape shape = testing::SmallShape();
  const auto trainer = Trained(recipe);
  const Internals internals(recipe, *trainer);
  const Tensors exported = trainer->Export();
  const auto parameters = ViewsOf(internals.layout, internals.units.parameters);
  const Activations sequence = Sequence(200);
  const at::Tensor k = sequence.k.flatten(0, 1).repeat_interleave(internals.layout.units_per_kv_head, 0);
  const at::Tensor q = QueryInputs(
      recipe, sequence.q.view({internals.layout.num_units(), internals.layout.group, kTokens, shape.head_dim}));
  for (const Side side : {Side::kKey, Side::kQuery}) {
    const bool key = side == Side::kKey;
    Encoder served;
    const auto stacked = [&](const char* name) {
      std::vector<at::Tensor> layers;
      for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
        const auto found = exported.find(Name(recipe, layer, (key ? "key." : "query.") + std::string(name)));
        if (found == exported.end()) return at::Tensor();
        EXPECT_TRUE(found->second.is_contiguous() && found->second.scalar_type() == at::kFloat) << name;
        layers.push_back(found->second);
      }
      return at::cat(layers);
    };
    served.w1 = stacked("w1");
    served.w2 = stacked("w2");
    served.skip = stacked("skip");
    served.b2 = stacked("b2").unsqueeze(1);
    if (served.w1.defined()) served.b1 = stacked("b1").unsqueeze(1);
    const Centring& centring = internals.units.centring;
    const at::Tensor expected = Encode(EncoderOf(recipe, side, parameters, internals.units.rotations),
                                       key ? centring.Keys(k) : centring.Queries(q));
    const at::Tensor got = Encode(served, key ? k : q);
    EXPECT_LT(((got - expected).norm() / expected.norm()).item<double>(), 1e-5) << (key ? "key" : "query");
  }
}

TEST_P(HashExportFormTest, ExportedEncodersAreJudgedAsTheParametersAre) {
  const Recipe recipe = SmallRecipe(GetParam().encoder, GetParam().query, GetParam().per_query_head);
  const auto trainer = Trained(recipe);
  const Activations sequence = Sequence(203);
  const HeldOutFigures own = trainer->Evaluate(sequence, 0, kTokens);
  const HeldOutFigures exported = trainer->Evaluate(sequence, 0, kTokens, trainer->Export());
  EXPECT_NEAR(exported.recall, own.recall, 5e-4);
  EXPECT_NEAR(exported.candidate_mass, own.candidate_mass, 5e-4);
  EXPECT_NEAR(exported.iou, own.iou, 5e-4);
  Tensors spoilt = trainer->Export();
  for (auto& [name, tensor] : spoilt) tensor = at::sin(tensor * 1e4);
  EXPECT_LT(trainer->Evaluate(sequence, 0, kTokens, spoilt).recall, own.recall - 0.02);
}

INSTANTIATE_TEST_SUITE_P(Forms, HashExportFormTest,
                         ::testing::Values(ExportCase{"z", EncoderKind::kZ, QueryForm::kReal, false},
                                           ExportCase{"z_bits", EncoderKind::kZ, QueryForm::kBits, false},
                                           ExportCase{"linear", EncoderKind::kLinear, QueryForm::kBits, false},
                                           ExportCase{"linear_real", EncoderKind::kLinear, QueryForm::kReal, true},
                                           ExportCase{"paper", EncoderKind::kPaper, QueryForm::kBits, true}),
                         [](const auto& info) { return std::string(info.param.name); });

class HashExportKernelTest : public ::testing::TestWithParam<EncoderKind> {};

TEST_P(HashExportKernelTest, TheKernelsReferenceFindsTheSameBitsLevelsAndLogits) {
  const Recipe recipe = SmallRecipe(GetParam(), QueryForm::kReal, false);
  const HashShape shape = testing::SmallShape();
  const int64_t heads = shape.num_kv_heads, group = shape.num_q_heads / heads, bits = recipe.hash_bits;
  const auto trainer = Trained(recipe);
  Internals internals(recipe, *trainer);
  const Tensors exported = trainer->Export();
  const Activations sequence = Sequence(201);
  UnitBatch& units = internals.units;
  units.q = sequence.q.view({internals.layout.num_units(), group, kTokens, shape.head_dim});
  units.k = sequence.k.flatten(0, 1);
  const auto parameters = ViewsOf(internals.layout, units.parameters);
  const at::Tensor h = Encode(EncoderOf(recipe, Side::kKey, parameters, units.rotations), units.centring.Keys(units.k));
  const at::Tensor w = Encode(EncoderOf(recipe, Side::kQuery, parameters, units.rotations),
                              units.centring.Queries(QueryInputs(recipe, units.q)));
  const at::Tensor bit = HardBits(h), level = ServedQueryWeights(recipe, w, group);
  const at::Tensor logit = TrainingScores(recipe, internals.layout, units) * parameters.at("log_scale").exp();

  int64_t wrong_bits = 0, wrong_levels = 0, wrong_logits = 0, count = 0;
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    const Encoded encoded = EncodeByReference(recipe, shape, exported, layer, sequence);
    const auto* scale = exported.at(Name(recipe, layer, "logit_scale")).const_data_ptr<float>();
    for (int64_t head = 0; head < heads; ++head) {
      const at::Tensor unit_bits = bit[layer * heads + head], unit_levels = level[layer * heads + head];
      const at::Tensor unit_logits = logit[layer * heads + head];
      const auto bits_at = unit_bits.accessor<float, 2>(), levels_at = unit_levels.accessor<float, 2>();
      const auto logits_at = unit_logits.accessor<float, 2>();
      for (int64_t token = 0; token < kTokens; ++token) {
        for (int64_t b = 0; b < bits; ++b, ++count) {
          const int64_t word = (token * heads + head) * kWords + b / 32;
          wrong_bits += (encoded.codes[word] >> b % 32 & 1) != (bits_at[token][b] > 0);
          int32_t u = 0;
          for (int32_t j = 0; j < recipe.num_planes; ++j) {
            const int64_t plane = ((token * heads + head) * recipe.num_planes + j) * kWords + b / 32;
            u += static_cast<int32_t>(encoded.planes[plane] >> b % 32 & 1) << j;
          }
          wrong_levels += 2 * u - ((1 << recipe.num_planes) - 1) != static_cast<int32_t>(levels_at[token][b]);
        }
        const int64_t key = (token * 37) % kTokens;
        const double estimate =
            scale[head] * encoded.plane_unit[token * heads + head] / 2 *
            (2.0 * RawScore(recipe, encoded, heads, token, key, head) - bits * ((1 << recipe.num_planes) - 1));
        wrong_logits += std::abs(estimate - logits_at[token][key]) > 0.02;
      }
    }
  }
  // fp32 against double: only what lies on a threshold may differ.
  EXPECT_LT(wrong_bits, count * 1e-4);
  EXPECT_LT(wrong_levels, count * 1e-4);
  EXPECT_LT(wrong_logits, shape.num_layers * heads * kTokens / 50);
}

INSTANTIATE_TEST_SUITE_P(Encoders, HashExportKernelTest, ::testing::Values(EncoderKind::kZ, EncoderKind::kLinear));

// The tokens of the K highest scores, of equal scores the lower index; ascending.
std::vector<int64_t> Best(const std::vector<double>& score, int64_t begin, int64_t end, int64_t count) {
  std::vector<int64_t> tokens(end - begin);
  std::iota(tokens.begin(), tokens.end(), begin);
  std::stable_sort(tokens.begin(), tokens.end(), [&](int64_t a, int64_t b) { return score[a] > score[b]; });
  tokens.resize(count);
  std::sort(tokens.begin(), tokens.end());
  return tokens;
}

double Common(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  std::vector<int64_t> both;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
  return static_cast<double>(both.size());
}

TEST(HashExportTest, HeldOutFiguresAreThoseOfBruteForceWithTheExportedEncoders) {
  const Recipe recipe = SmallRecipe(EncoderKind::kZ, QueryForm::kReal, false);
  const HashShape shape = testing::SmallShape();
  const int64_t heads = shape.num_kv_heads, group = shape.num_q_heads / heads;
  const auto trainer = Trained(recipe);
  const Tensors exported = trainer->Export();
  const Activations sequence = Sequence(202);
  const kernels::Budget budget;
  double recall = 0, mass_share = 0, iou = 0, count = 0;
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    const Encoded encoded = EncodeByReference(recipe, shape, exported, layer, sequence);
    for (int64_t query = kTokens / 2; query < kTokens; ++query) {
      const int64_t begin = budget.sink_tokens, end = query + 1 - budget.recent_tokens;
      const int64_t k = kernels::NumSelected(budget, static_cast<int32_t>(query + 1));
      for (int64_t head = 0; head < heads; ++head, ++count) {
        std::vector<double> score(kTokens), mass(kTokens, 0.0);
        for (int64_t key = 0; key < kTokens; ++key) score[key] = RawScore(recipe, encoded, heads, query, key, head);
        const std::vector<int64_t> selected = Best(score, begin, end, k);
        for (int64_t g = 0; g < group; ++g) {
          const at::Tensor keys = sequence.k[layer][head].narrow(0, 0, query + 1).to(at::kDouble);
          const at::Tensor logits = keys.matmul(sequence.q[layer][head * group + g][query].to(at::kDouble));
          const at::Tensor own = (logits / std::sqrt(static_cast<double>(shape.head_dim))).softmax(0);
          std::vector<double> weights(own.const_data_ptr<double>(), own.const_data_ptr<double>() + own.numel());
          for (int64_t key = 0; key <= query; ++key) mass[key] += weights[key];
          const double hits = Common(selected, Best(weights, begin, end, k));
          iou += hits / (2 * k - hits) / group;
        }
        recall += Common(selected, Best(mass, begin, end, k)) / k;
        double caught = 0;
        for (const int64_t token : selected) caught += mass[token];
        mass_share += caught / std::accumulate(mass.begin() + begin, mass.begin() + end, 0.0);
      }
    }
  }
  // As many queries as there are: all of the second half.
  const HeldOutFigures figures = trainer->Evaluate(sequence, 0, kTokens);
  EXPECT_NEAR(figures.recall, recall / count, 5e-4);
  EXPECT_NEAR(figures.candidate_mass, mass_share / count, 5e-4);
  EXPECT_NEAR(figures.iou, iou / count, 5e-4);
  EXPECT_LT(figures.recall, 0.99);
}

}  // namespace
}  // namespace spotlight::training
