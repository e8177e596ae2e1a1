// A linear layer for the few rows of a decode step, on a GPU, with what stands before and after it in a decoder's
// layer: y = x W^T + bias, or n W^T + bias where n is the RMSNorm of x. Bound by reading W.
//
//   x             [B, K]  dtype  1 <= B <= MaxSmallLinearRows(fp8)
//   weight        [N, K]  dtype, or e4m3 with a weight_scale: row n makes output n
//   weight_scale  [N]     float  null: weight is in dtype; else row n of the matrix is weight_scale[n] * weight[n]
//   bias          [N]     dtype  null: none
//   norm_weight   [K]     dtype  null: x is taken as it is; see SmallLinearTakesNorm
//   out           [B, N]  dtype  kStore: y. kAdd: + y, in place; not x's memory
//                 [B, N / 2]     kSiluMul: silu(gate) * up of y's halves, gate first
//
// bf16 or fp16, bf16 alone with e4m3 weights, which are widened without rounding and hold no NaN. Sums in fp32; the
// scale is applied to a whole sum, then the bias, before y is rounded. A row's result depends on its own values alone,
// not on B, and is the same in every run.
//
// A norm is bf16's, weights included: x * norm_weight, which would overflow fp16, is rounded, and the sums are divided
// by the root mean square of x, where AddRmsNorm divides first and rounds twice. Sum and silu are rounded where
// pointwise.h rounds them, y before: they have the bits of SmallLinear and the operation after it.
//
// The stream's previous kernel may still run when this one begins to read the weights, their scales, the bias and the
// norm's weight: it must not write them. x and out are touched only when it has ended.
//
// Alignment: x, weight, norm_weight and out 16 bytes. K is a multiple of 64, N of 16.
// Cost: reads N * K elements.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/execution.h"
#include "kernels/layout.h"

namespace spotlight::kernels {

inline constexpr int32_t kMaxSmallLinearRows = 16;
inline constexpr int32_t kMaxSmallLinearFp8Rows = 32;
inline constexpr int32_t kMaxSmallLinearNorm = 8192;  // K, with a norm

inline constexpr int32_t MaxSmallLinearRows(bool fp8) {
  return fp8 ? kMaxSmallLinearFp8Rows : kMaxSmallLinearRows;
}

// What becomes of y.
enum class SmallLinearResult : uint8_t { kStore, kAdd, kSiluMul };

struct SmallLinearParams {
  Execution execution;  // CUDA
  DType dtype = DType::kBF16;
  int32_t num_rows = 0;  // B
  int32_t num_in = 0;    // K
  int32_t num_out = 0;   // N

  const void* x = nullptr;
  const void* weight = nullptr;
  const float* weight_scale = nullptr;
  const void* bias = nullptr;
  const void* norm_weight = nullptr;
  float norm_eps = 0;
  SmallLinearResult result = SmallLinearResult::kStore;
  void* out = nullptr;
};

// Whether SmallLinear takes this layer for this many rows; fp8: with e4m3 weights.
inline bool SmallLinearSupported(DType dtype, bool fp8, int64_t num_rows, int64_t num_in, int64_t num_out) {
  return (fp8 ? dtype == DType::kBF16 : dtype != DType::kF32) && num_rows >= 1 && num_rows <= MaxSmallLinearRows(fp8) &&
         num_in > 0 && num_in % 64 == 0 && num_out > 0 && num_out % 16 == 0 && num_in <= INT32_MAX &&
         num_out <= INT32_MAX;
}

// And with a norm.
inline bool SmallLinearTakesNorm(DType dtype, bool fp8, int64_t num_in) {
  return dtype == DType::kBF16 && !fp8 && num_in <= kMaxSmallLinearNorm;
}

// INVALID_ARGUMENT names the field at fault, before any work. Enqueued on the stream.
absl::Status SmallLinear(const SmallLinearParams& params);

}  // namespace spotlight::kernels
