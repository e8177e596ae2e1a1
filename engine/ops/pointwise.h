// The fused element-wise operations of kernels/pointwise.h, on tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include "absl/status/statusor.h"

namespace spotlight::engine {

// x [T, E] += delta [T, E], in place (undefined: x stays); returns the norm of x, scaled by weight [E].
absl::StatusOr<at::Tensor> AddRmsNorm(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& weight,
                                      double eps);

// gate_up [T, 2 * I], gate first -> silu(gate) * up [T, I].
absl::StatusOr<at::Tensor> SiluMul(const at::Tensor& gate_up);

}  // namespace spotlight::engine
