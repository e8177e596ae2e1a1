// From centred keys and queries to what is compared: bits and weights. See training/hash_layout.h for the parameters.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

#include "training/recipe.h"

namespace spotlight::training {

// One side's encoders of u units in the form in which every kind is served:
// h = silu(x w1 + b1) w2 + b2 + x skip; linear: h = x skip + b2, w1, b1 and w2 undefined.
struct Encoder {
  at::Tensor w1, b1;  // [u, in, M], [u, 1, M]
  at::Tensor w2, b2;  // [u, M, N], [u, 1, N]
  at::Tensor skip;    // [u, in, N]
};

// Units [begin, begin + count).
Encoder UnitsOf(const Encoder& encoder, int64_t begin, int64_t count);

enum class Side : uint8_t { kKey, kQuery };

// From the views of a layout's parameters; `rotations` [D, N] are the paper's fixed ones. Differentiable.
Encoder EncoderOf(const Recipe& recipe, Side side, const std::map<std::string, at::Tensor>& parameters,
                  const at::Tensor& rotations);

// The encoder of x - mean, scaled, as one of x: mean [u, 1, in], scale [u, 1, 1] or [u, 1, in].
Encoder FoldCentring(const Encoder& encoder, const at::Tensor& mean, const at::Tensor& scale);

// x [u, n, in] -> [u, n, N].
at::Tensor Encode(const Encoder& encoder, const at::Tensor& x);

// Queries of u units as their encoder reads them: q [u, G, n, D] -> [u, n, G * D] (kReal), [u, G * n, D] (kBits).
at::Tensor QueryInputs(const Recipe& recipe, const at::Tensor& q);

// h [u, n, N] of keys as +-1: as served, or as training sees them.
at::Tensor HardBits(const at::Tensor& h);
at::Tensor TrainingKeyBits(const Recipe& recipe, const at::Tensor& h);

// Encoded queries as weights of the bits, [u, n, N]; kBits sums the group's bits. Served: integers (levels of planes,
// or counts). Training: in units of the encoder.
at::Tensor ServedQueryWeights(const Recipe& recipe, const at::Tensor& h, int64_t group);
at::Tensor TrainingQueryWeights(const Recipe& recipe, const at::Tensor& h, int64_t group);

// The gradient of h from that of what training made of it, straight through quantisation and sign.
at::Tensor KeyGradient(const Recipe& recipe, const at::Tensor& h, at::Tensor gradient);
at::Tensor QueryGradient(const Recipe& recipe, const at::Tensor& h, const at::Tensor& gradient, int64_t group);

}  // namespace spotlight::training
