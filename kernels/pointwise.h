// The element-wise operations between a layer's matrix products, fused: the residual and its norm, the gated
// activation.
//
//   AddRmsNorm   x += delta, where delta is given; out = x / sqrt(mean(x^2) + eps) * weight
//     x       [T, E]  dtype  in and out: the residual stream
//     delta   [T, E]  dtype  null: x stays
//     weight  [E]     dtype
//     out     [T, E]  dtype  may be delta's memory, not x's
//
//   SiluMul      out = silu(gate) * up
//     gate_up [T, 2 * I]  dtype  gate, then up
//     out     [T, I]      dtype
//
// Arithmetic is fp32; half precisions are rounded where a framework that runs one operation after the other rounds: the
// sum, the normalised x before the weight, the silu before the product. So they follow transformers bit for bit but for
// the order of the sum of squares and the last place of the exponential.
// A token's result does not depend on the other tokens or on the threads. Few tokens run on the calling thread.
// Reference: kernels/reference/pointwise.h.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/execution.h"
#include "kernels/layout.h"

namespace spotlight::kernels {

struct AddRmsNormParams {
  Execution execution;
  DType dtype = DType::kF32;
  int32_t num_tokens = 0;  // T
  int32_t hidden = 0;      // E, a multiple of 16
  float eps = 0;

  void* x = nullptr;
  const void* delta = nullptr;
  const void* weight = nullptr;
  void* out = nullptr;
};

absl::Status AddRmsNorm(const AddRmsNormParams& params);

struct SiluMulParams {
  Execution execution;
  DType dtype = DType::kF32;
  int32_t num_tokens = 0;    // T
  int32_t intermediate = 0;  // I, a multiple of 16

  const void* gate_up = nullptr;
  void* out = nullptr;
};

absl::Status SiluMul(const SiluMulParams& params);

}  // namespace spotlight::kernels
