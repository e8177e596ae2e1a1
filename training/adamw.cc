#include "training/adamw.h"

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

namespace spotlight::training {

double LearningRate(const Recipe& recipe, int32_t step) {
  constexpr double kPi = 3.14159265358979323846;
  const double warmup = recipe.warmup_ratio * recipe.steps;
  const double rise = warmup > 0 ? std::min(1.0, (step + 1) / warmup) : 1.0;
  const double cosine = 0.5 * (1 + std::cos(kPi * std::min(1.0, static_cast<double>(step) / recipe.steps)));
  const double last = recipe.final_learning_rate_ratio;
  return recipe.learning_rate * rise * (last + (1 - last) * cosine);
}

AdamW::AdamW(const at::Tensor& parameters)
    : first_moment(at::zeros_like(parameters)),
      second_moment(at::zeros_like(parameters)),
      steps_taken(at::zeros({}, parameters.options().dtype(at::kFloat))) {}

void AdamW::Step(const Recipe& recipe, double learning_rate, const at::Tensor& parameters, const at::Tensor& gradient) {
  constexpr double kEpsilon = 1e-8;
  const at::Tensor norm = at::linalg_vector_norm(gradient, 2, at::IntArrayRef({1}), /*keepdim=*/true);
  gradient.mul_(norm.clamp_min_(recipe.gradient_clip).reciprocal_().mul_(recipe.gradient_clip));
  steps_taken.add_(1);
  at::_fused_adamw_({parameters}, {gradient}, {first_moment}, {second_moment}, {}, {steps_taken}, learning_rate,
                    recipe.beta1, recipe.beta2, recipe.weight_decay, kEpsilon, /*amsgrad=*/false, /*maximize=*/false);
}

}  // namespace spotlight::training
