// Small bridges between LibTorch and the kernels' plain types.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/layout.h"

namespace spotlight::engine {

inline kernels::DType ToKernelDType(at::ScalarType type) {
  switch (type) {
    case at::kBFloat16:
      return kernels::DType::kBF16;
    case at::kHalf:
      return kernels::DType::kF16;
    default:
      return kernels::DType::kF32;
  }
}

inline at::ScalarType ToScalarType(kernels::DType type) {
  switch (type) {
    case kernels::DType::kBF16:
      return at::kBFloat16;
    case kernels::DType::kF16:
      return at::kHalf;
    case kernels::DType::kF32:
      break;
  }
  return at::kFloat;
}

}  // namespace spotlight::engine
