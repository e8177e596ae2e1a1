// A linear layer for the few rows of a decode step, on a GPU: out = x W^T + bias. Bound by reading W.
//
//   x       [B, K]  dtype  1 <= B <= kMaxSmallLinearRows
//   weight  [N, K]  dtype  row n makes output n
//   bias    [N]     dtype  null: none
//   out     [B, N]  dtype
//
// bf16 or fp16, sums in fp32, the bias added before the result is rounded. A row's result depends on its own values
// alone, not on B, and is the same in every run.
// The stream's previous kernel may still run when this one begins to read weight and bias: it must not write them.
// Alignment: x, weight and out 16 bytes. K is a multiple of 64, N of 16.
// Cost reads N * K elements.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/execution.h"
#include "kernels/layout.h"

namespace spotlight::kernels {

inline constexpr int32_t kMaxSmallLinearRows = 8;

struct SmallLinearParams {
  Execution execution;  // CUDA
  DType dtype = DType::kBF16;
  int32_t num_rows = 0;  // B
  int32_t num_in = 0;    // K
  int32_t num_out = 0;   // N

  const void* x = nullptr;
  const void* weight = nullptr;
  const void* bias = nullptr;
  void* out = nullptr;
};

// Whether SmallLinear takes this layer for this many rows.
inline bool SmallLinearSupported(DType dtype, int64_t num_rows, int64_t num_in, int64_t num_out) {
  return dtype != DType::kF32 && num_rows >= 1 && num_rows <= kMaxSmallLinearRows && num_in > 0 && num_in % 64 == 0 &&
         num_out > 0 && num_out % 16 == 0 && num_in <= INT32_MAX && num_out <= INT32_MAX;
}

// INVALID_ARGUMENT names the field at fault, before any work. Enqueued on the stream.
absl::Status SmallLinear(const SmallLinearParams& params);

}  // namespace spotlight::kernels
