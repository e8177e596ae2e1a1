// ||value - reference|| / ||reference||, in double.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/linalg_vector_norm.h>

namespace spotlight::testing {

inline double RelativeError(const at::Tensor& value, const at::Tensor& reference) {
  const at::Tensor exact = reference.to(at::kDouble);
  return (at::linalg_vector_norm(value.to(at::kDouble) - exact) / at::linalg_vector_norm(exact)).item<double>();
}

}  // namespace spotlight::testing
