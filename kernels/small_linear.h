// A linear layer for the few rows of a decode step, on a GPU: out = x W^T + bias. Bound by reading W.
//
//   x             [B, K]  dtype  1 <= B <= MaxSmallLinearRows(fp8)
//   weight        [N, K]  dtype, or e4m3 with a weight_scale: row n makes output n
//   weight_scale  [N]     float  null: weight is in dtype; else row n of the matrix is weight_scale[n] * weight[n]
//   bias          [N]     dtype  null: none
//   out           [B, N]  dtype
//
// bf16 or fp16, bf16 alone with e4m3 weights, which are widened without rounding and hold no NaN. Sums in fp32; the
// scale is applied to a whole sum, then the bias, before the result is rounded. A row's result depends on its own
// values alone, not on B, and is the same in every run.
// The stream's previous kernel may still run when this one begins to read the weights, their scales and the bias: it
// must not write them.
// Alignment: x, weight and out 16 bytes. K is a multiple of 64, N of 16.
// Cost reads N * K elements.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/execution.h"
#include "kernels/layout.h"

namespace spotlight::kernels {

inline constexpr int32_t kMaxSmallLinearRows = 8;
inline constexpr int32_t kMaxSmallLinearFp8Rows = 32;

inline constexpr int32_t MaxSmallLinearRows(bool fp8) {
  return fp8 ? kMaxSmallLinearFp8Rows : kMaxSmallLinearRows;
}

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
  void* out = nullptr;
};

// Whether SmallLinear takes this layer for this many rows; fp8: with e4m3 weights.
inline bool SmallLinearSupported(DType dtype, bool fp8, int64_t num_rows, int64_t num_in, int64_t num_out) {
  return (fp8 ? dtype == DType::kBF16 : dtype != DType::kF32) && num_rows >= 1 && num_rows <= MaxSmallLinearRows(fp8) &&
         num_in > 0 && num_in % 64 == 0 && num_out > 0 && num_out % 16 == 0 && num_in <= INT32_MAX &&
         num_out <= INT32_MAX;
}

// INVALID_ARGUMENT names the field at fault, before any work. Enqueued on the stream.
absl::Status SmallLinear(const SmallLinearParams& params);

}  // namespace spotlight::kernels
