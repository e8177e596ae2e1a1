// The query side's quantisation as kernels/encode_and_append.h serves it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace spotlight::training {

// w [..., N], quantised along N together: w is about levels * unit / 2.
struct PlaneWeights {
  at::Tensor levels;  // [..., N]: odd integers within +-(2^J - 1), of w's type
  at::Tensor unit;    // [..., 1]: c * rms(w), rms floored at 1e-6
};
// step: c, of recipe.h's PlaneStep or a hash file.
PlaneWeights QuantiseToPlanes(const at::Tensor& w, int32_t num_planes, double step);

}  // namespace spotlight::training
