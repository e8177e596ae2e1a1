// AdamW over [U, P] with the gradient of every unit (row) clipped by itself.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "training/recipe.h"

namespace spotlight::training {

// Warm-up, then a cosine from recipe.learning_rate down to its final ratio.
double LearningRate(const Recipe& recipe, int32_t step);

// Thread-compatible.
struct AdamW {
  explicit AdamW(const at::Tensor& parameters);

  // Clips `gradient` in place, then moves `parameters`.
  void Step(const Recipe& recipe, double learning_rate, const at::Tensor& parameters, const at::Tensor& gradient);

  at::Tensor first_moment, second_moment;  // [U, P]
  at::Tensor steps_taken;                  // [], fp32
};

}  // namespace spotlight::training
