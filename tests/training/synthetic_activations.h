// Activations of no model: keys whose loud channels mean nothing to the queries, so that a hash has something to learn.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/randn.h>

#include <cmath>
#include <cstdint>

#include "training/activations.h"
#include "training/hash_shape.h"

namespace spotlight::training::testing {

inline HashShape SmallShape(int32_t target_context = 1024) {
  HashShape shape;
  shape.num_layers = 2;
  shape.num_q_heads = 4;
  shape.num_kv_heads = 2;
  shape.head_dim = 32;
  for (int i = 0; i < 16; ++i) shape.inv_freq.push_back(std::pow(1000.0f, -i / 16.0f));
  shape.target_context = target_context;
  return shape;
}

// Channels [0, 4) and [16, 20) (whole rotary pairs) tell tokens apart; the others are loud, and queries barely read
// them. Every channel of the keys has an offset.
inline Activations RandomActivations(const HashShape& shape, int64_t tokens, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const int64_t dim = shape.head_dim;
  Activations activations;
  activations.q = at::randn({shape.num_layers, shape.num_q_heads, tokens, dim}, generator, at::kFloat);
  activations.k = at::randn({shape.num_layers, shape.num_kv_heads, tokens, dim}, generator, at::kFloat);
  for (int64_t channel = 0; channel < dim; ++channel) {
    const bool told = channel % (dim / 2) < 4;
    activations.q.select(3, channel).mul_(told ? 3.0 : 0.05);
    activations.k.select(3, channel).mul_(told ? 1.0 : 4.0).add_(channel % 3 - 1.0);
  }
  return activations;
}

}  // namespace spotlight::training::testing
