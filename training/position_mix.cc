#include "training/position_mix.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/roll.h>
#include <ATen/ops/tensor.h>

namespace spotlight::training {
namespace {

// Every token moved by offset, those from `jump_at` on by total.
std::vector<int64_t> Moved(int64_t tokens, int64_t offset, int64_t jump_at, int64_t total) {
  std::vector<int64_t> positions(tokens);
  for (int64_t t = 0; t < tokens; ++t) positions[t] = t + (t < jump_at ? offset : total);
  return positions;
}

}  // namespace

std::vector<int64_t> ScatteredPositions(int64_t tokens, int64_t target_context, StepRandom* random) {
  if (target_context <= tokens) return {};
  const int64_t total = random->Within(0, target_context - tokens + 1);
  std::vector<int64_t> positions = random->Ascending(tokens, 0, total + 1);
  for (int64_t t = 0; t < tokens; ++t) positions[t] += t;
  return positions;
}

std::vector<int64_t> MixedPositions(int64_t tokens, int64_t target_context, StepRandom* random) {
  if (target_context <= tokens) return {};
  const int64_t form = random->Within(0, 4), room = target_context - tokens;
  if (form == 0) return {};
  if (form == 3) return ScatteredPositions(tokens, target_context, random);
  const int64_t total = random->Within(0, room + 1);
  if (form == 1) return Moved(tokens, total, tokens, total);
  const int64_t offset = random->Within(0, total + 1);
  return Moved(tokens, offset, random->Within(tokens / 8, tokens), total);
}

PhaseShift::PhaseShift(const std::vector<int64_t>& positions, const std::vector<float>& inv_freq,
                       const at::TensorOptions& options) {
  if (positions.empty()) return;
  const auto tokens = static_cast<int64_t>(positions.size());
  const at::Tensor frequency = at::tensor(inv_freq, at::kFloat).to(options.device());
  const auto angle = [&](const at::Tensor& position) {
    return at::outer(position.to(options.device(), at::kFloat), frequency).to(at::kDouble);
  };
  const at::Tensor difference = angle(at::tensor(positions, at::kLong)) - angle(at::arange(tokens, at::kLong));
  const at::Tensor cos = difference.cos(), sin = difference.sin();
  cosine = at::cat({cos, cos}, 1).to(options.dtype());
  sine = at::cat({-sin, sin}, 1).to(options.dtype());
}

PhaseShift PhaseShift::At(const at::Tensor& tokens) const {
  PhaseShift shift;
  if (!cosine.defined()) return shift;
  shift.cosine = cosine.index_select(0, tokens);
  shift.sine = sine.index_select(0, tokens);
  return shift;
}

at::Tensor PhaseShift::Apply(const at::Tensor& x) const {
  if (!cosine.defined()) return x;
  return at::roll(x, x.size(-1) / 2, -1).mul_(sine).addcmul_(x, cosine);
}

}  // namespace spotlight::training
