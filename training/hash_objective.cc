#include "training/hash_objective.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/bmm.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

namespace spotlight::training {
namespace {

struct Encoded {
  at::Tensor keys;     // [u, T, N]
  at::Tensor queries;  // [u, N, N] or [u, G * N, N]
};

Encoded EncodeBoth(const Recipe& recipe, const UnitBatch& units, const std::map<std::string, at::Tensor>& parameters) {
  at::Tensor keys, queries;
  {
    const at::NoGradGuard no_grad;
    keys = units.centring.Keys(units.k);
    queries = units.centring.Queries(QueryInputs(recipe, units.q));
  }
  const Encoder key = EncoderOf(recipe, Side::kKey, parameters, units.rotations);
  const Encoder query = EncoderOf(recipe, Side::kQuery, parameters, units.rotations);
  return {Encode(key, keys), Encode(query, queries)};
}

// Adds the loss of the first `bits` bits, by themselves, to loss, and its gradients to those of weights and key bits.
struct ScoreGradients {
  at::Tensor loss;     // [u]
  at::Tensor weights;  // [u, N, N]
  at::Tensor bits;     // [u, T, N]
};

ScoreGradients JudgeBits(const Recipe& recipe, const at::Tensor& weights, const at::Tensor& bits,
                         const QuerySites& sites, const RankingTarget& target) {
  RankingLoss loss = JudgeScores(recipe.loss, at::bmm(weights, bits.transpose(1, 2)), sites, target);
  return {loss.value, at::bmm(loss.gradient, bits), at::bmm(loss.gradient.transpose(1, 2), weights)};
}

// The prefix ranks with the same scale, but for its smaller spread.
void AddPrefix(const Recipe& recipe, const at::Tensor& weights, const at::Tensor& bits, const QuerySites& sites,
               const RankingTarget& target, ScoreGradients* sum) {
  const double spread = std::sqrt(static_cast<double>(recipe.hash_bits) / recipe.prefix_bits);
  const ScoreGradients own = JudgeBits(recipe, weights.narrow(2, 0, recipe.prefix_bits) * spread,
                                       bits.narrow(2, 0, recipe.prefix_bits), sites, target);
  const double share = recipe.prefix_weight;
  sum->loss.add_(own.loss, share);
  sum->weights.narrow(2, 0, recipe.prefix_bits).add_(own.weights, share * spread);
  sum->bits.narrow(2, 0, recipe.prefix_bits).add_(own.bits, share);
}

}  // namespace

Centring Centring::Of(int64_t begin, int64_t count) const {
  const auto some = [&](const at::Tensor& x) { return x.narrow(0, begin, count); };
  return {some(key_mean), some(key_scale), some(query_mean), some(query_scale)};
}

at::Tensor Centring::Keys(const at::Tensor& k) const {
  return (k - key_mean).mul_(key_scale);
}

at::Tensor Centring::Queries(const at::Tensor& inputs) const {
  return (inputs - query_mean).mul_(query_scale);
}

at::Tensor LossAndGradient(const Recipe& recipe, const HashLayout& layout, const UnitBatch& units,
                           const QuerySites& sites, const RankingTarget& target, at::Tensor* gradient) {
  std::map<std::string, at::Tensor> parameters = ViewsOf(layout, units.parameters);
  std::vector<std::string> names;
  std::vector<at::Tensor> leaves;
  for (auto& [name, view] : parameters) {
    if (name == "log_scale") continue;
    view = view.detach().requires_grad_(true);
    names.push_back(name);
    leaves.push_back(view);
  }
  Encoded encoded;
  {
    const at::AutoGradMode with_gradients(true);
    encoded = EncodeBoth(recipe, units, parameters);
  }

  const at::NoGradGuard no_grad;
  const at::Tensor keys = encoded.keys.detach(), queries = encoded.queries.detach();
  const at::Tensor bits = TrainingKeyBits(recipe, keys), scale = parameters.at("log_scale").exp();
  const at::Tensor weights = TrainingQueryWeights(recipe, queries, layout.group).mul_(scale);
  ScoreGradients sum = JudgeBits(recipe, weights, bits, sites, target);
  if (recipe.prefix_bits > 0 && recipe.prefix_bits < recipe.hash_bits) {
    AddPrefix(recipe, weights, bits, sites, target, &sum);
  }

  // The weights carry the scale: d loss / d log scale is the sum of gradient times weight.
  std::map<std::string, at::Tensor> out = ViewsOf(layout, *gradient);
  out.at("log_scale").copy_((sum.weights * weights).sum({1, 2}, /*keepdim=*/true));
  at::Tensor query_gradient = QueryGradient(recipe, queries, sum.weights.mul_(scale), layout.group);
  at::Tensor key_gradient = KeyGradient(recipe, keys, std::move(sum.bits));
  const auto gradients = torch::autograd::grad({std::move(encoded.queries), std::move(encoded.keys)}, leaves,
                                               {std::move(query_gradient), std::move(key_gradient)});
  for (size_t i = 0; i < names.size(); ++i) out.at(names[i]).copy_(gradients[i]);
  return sum.loss;
}

at::Tensor TrainingScores(const Recipe& recipe, const HashLayout& layout, const UnitBatch& units) {
  const at::NoGradGuard no_grad;
  const Encoded encoded = EncodeBoth(recipe, units, ViewsOf(layout, units.parameters));
  return at::bmm(TrainingQueryWeights(recipe, encoded.queries, layout.group),
                 TrainingKeyBits(recipe, encoded.keys).transpose(1, 2));
}

at::Tensor ServedScores(const Recipe& recipe, const HashLayout& layout, const UnitBatch& units) {
  const at::NoGradGuard no_grad;
  const Encoded encoded = EncodeBoth(recipe, units, ViewsOf(layout, units.parameters));
  return at::bmm(ServedQueryWeights(recipe, encoded.queries, layout.group), HardBits(encoded.keys).transpose(1, 2));
}

at::Tensor ServedScores(const Recipe& recipe, const HashLayout& layout, const Encoder& query, const Encoder& key,
                        const at::Tensor& q, const at::Tensor& k) {
  const at::NoGradGuard no_grad;
  return at::bmm(ServedQueryWeights(recipe, Encode(query, QueryInputs(recipe, q)), layout.group),
                 HardBits(Encode(key, k)).transpose(1, 2));
}

}  // namespace spotlight::training
