#include "training/hash_encoders.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/silu.h>

#include "training/plane_quantiser.h"

namespace spotlight::training {
namespace {

// The soft bit is ah / (1 + |ah|): a gentle a under a straight-through sign, the paper's steep one alone.
double Steepness(const Recipe& recipe) {
  return recipe.query == QueryForm::kReal ? 4.0 : 64.0;
}

at::Tensor SoftBits(const at::Tensor& h, double steepness) {
  const at::Tensor steep = h * steepness;
  return steep.abs().add_(1).reciprocal_().mul_(steep);
}

// gradient * d soft bit / dh, in place.
at::Tensor ThroughSoftBits(const at::Tensor& h, double steepness, at::Tensor gradient) {
  return gradient.mul_(steepness).div_(h.abs().mul_(steepness).add_(1).square_());
}

at::Tensor ByHead(const at::Tensor& h, int64_t group) {
  return h.view({h.size(0), group, -1, h.size(2)});
}

}  // namespace

Encoder UnitsOf(const Encoder& encoder, int64_t begin, int64_t count) {
  const auto some = [&](const at::Tensor& x) { return x.defined() ? x.narrow(0, begin, count) : x; };
  return {some(encoder.w1), some(encoder.b1), some(encoder.w2), some(encoder.b2), some(encoder.skip)};
}

Encoder EncoderOf(const Recipe& recipe, Side side, const std::map<std::string, at::Tensor>& parameters,
                  const at::Tensor& rotations) {
  const bool own = side == Side::kQuery && parameters.count("query.b2") > 0;
  const std::string prefix = own ? "query." : "key.";
  const auto get = [&](const char* name) { return parameters.at(prefix + name); };
  Encoder encoder;
  encoder.b2 = get("b2");
  if (recipe.encoder != EncoderKind::kLinear) {
    encoder.w1 = get("w1");
    encoder.b1 = get("b1");
    encoder.w2 = get("w2");
  }
  if (recipe.encoder == EncoderKind::kPaper) {
    // y W2 + b2 + y P with y = silu(x W1 + b1) + x.
    encoder.skip = encoder.w2 = encoder.w2 + rotations;
  } else {
    encoder.skip = get("skip");
  }
  return encoder;
}

Encoder FoldCentring(const Encoder& encoder, const at::Tensor& mean, const at::Tensor& scale) {
  const at::Tensor column = scale.transpose(1, 2);
  Encoder folded = encoder;
  folded.skip = encoder.skip * column;
  folded.b2 = encoder.b2 - at::bmm(mean, folded.skip);
  if (!encoder.w1.defined()) return folded;
  folded.w1 = encoder.w1 * column;
  folded.b1 = encoder.b1 - at::bmm(mean, folded.w1);
  return folded;
}

at::Tensor Encode(const Encoder& encoder, const at::Tensor& x) {
  at::Tensor h = encoder.b2;
  if (encoder.w1.defined()) h = at::baddbmm(h, at::silu(at::baddbmm(encoder.b1, x, encoder.w1)), encoder.w2);
  return at::baddbmm(h, x, encoder.skip);
}

at::Tensor QueryInputs(const Recipe& recipe, const at::Tensor& q) {
  if (recipe.query == QueryForm::kReal) return q.transpose(1, 2).flatten(2);
  return q.flatten(1, 2);
}

at::Tensor HardBits(const at::Tensor& h) {
  return (h >= 0).to(h.scalar_type()).mul_(2).sub_(1);
}

at::Tensor TrainingKeyBits(const Recipe& recipe, const at::Tensor& h) {
  return recipe.query == QueryForm::kReal ? HardBits(h) : SoftBits(h, Steepness(recipe));
}

at::Tensor ServedQueryWeights(const Recipe& recipe, const at::Tensor& h, int64_t group) {
  if (recipe.query == QueryForm::kReal)
    return QuantiseToPlanes(h, recipe.num_planes, PlaneStep(recipe.num_planes)).levels;
  return ByHead(HardBits(h), group).sum(1);
}

at::Tensor TrainingQueryWeights(const Recipe& recipe, const at::Tensor& h, int64_t group) {
  if (recipe.query == QueryForm::kBits) return ByHead(SoftBits(h, Steepness(recipe)), group).sum(1);
  PlaneWeights planes = QuantiseToPlanes(h, recipe.num_planes, PlaneStep(recipe.num_planes));
  return planes.levels.mul_(planes.unit.mul_(0.5));
}

at::Tensor KeyGradient(const Recipe& recipe, const at::Tensor& h, at::Tensor gradient) {
  return ThroughSoftBits(h, Steepness(recipe), std::move(gradient));
}

at::Tensor QueryGradient(const Recipe& recipe, const at::Tensor& h, const at::Tensor& gradient, int64_t group) {
  if (recipe.query == QueryForm::kReal) return gradient;
  const at::Tensor each = gradient.unsqueeze(1).expand_as(ByHead(h, group)).reshape(h.sizes());
  return ThroughSoftBits(h, Steepness(recipe), group == 1 ? each.clone() : each);
}

}  // namespace spotlight::training
