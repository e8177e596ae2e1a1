#include "kernels/reference/pointwise.h"

#include <cmath>

#include "kernels/numeric.h"

namespace spotlight::kernels::reference {
namespace {

double Rounded(double x, DType dtype) {
  float stored;
  StoreElement(static_cast<float>(x), &stored, dtype, 0);
  return LoadElement(&stored, dtype, 0);
}

}  // namespace

void AddRmsNorm(const AddRmsNormParams& params) {
  for (int64_t token = 0; token < params.num_tokens; ++token) {
    const int64_t begin = token * params.hidden, end = begin + params.hidden;
    double squares = 0;
    for (int64_t i = begin; i < end; ++i) {
      if (params.delta != nullptr) {
        StoreElement(LoadElement(params.x, params.dtype, i) + LoadElement(params.delta, params.dtype, i), params.x,
                     params.dtype, i);
      }
      const double x = LoadElement(params.x, params.dtype, i);
      squares += x * x;
    }
    const double scale = 1 / std::sqrt(squares / params.hidden + double{params.eps});
    for (int64_t i = begin; i < end; ++i) {
      const double normalised = Rounded(LoadElement(params.x, params.dtype, i) * scale, params.dtype);
      const double weight = LoadElement(params.weight, params.dtype, i - begin);
      StoreElement(static_cast<float>(normalised * weight), params.out, params.dtype, i);
    }
  }
}

void SiluMul(const SiluMulParams& params) {
  for (int64_t token = 0; token < params.num_tokens; ++token) {
    for (int64_t i = 0; i < params.intermediate; ++i) {
      const double gate = LoadElement(params.gate_up, params.dtype, 2 * token * params.intermediate + i);
      const double up = LoadElement(params.gate_up, params.dtype, (2 * token + 1) * params.intermediate + i);
      const double silu = Rounded(gate / (1 + std::exp(-gate)), params.dtype);
      StoreElement(static_cast<float>(silu * up), params.out, params.dtype, token * params.intermediate + i);
    }
  }
}

}  // namespace spotlight::kernels::reference
