// Rows in 8 bits, each with a scale of its own: x[t] is close to scale[t] * out[t].
//
//   x      [T, K]  dtype
//   out    [T, K]  e4m3   x[t] / scale[t], to the nearest, ties to even (kernels/e4m3.h)
//   scale  [T]     float  the largest magnitude of x[t] / 448; 1 for a row of zeros
//
// Every device gives the same bits: the quotients are IEEE's in fp32. What is not a number stays so. A row with an
// infinity has an infinite scale.
// Alignment on CUDA, where dtype is bf16: x 16 bytes, out 8; K is a multiple of 8.
// Cost reads x once or twice (the second time out of a cache), writes T * K bytes.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/execution.h"
#include "kernels/layout.h"

namespace spotlight::kernels {

struct Fp8RowsParams {
  Execution execution;
  DType dtype = DType::kBF16;
  int64_t num_rows = 0;     // T
  int32_t num_columns = 0;  // K

  const void* x = nullptr;
  void* out = nullptr;
  float* scale = nullptr;
};

// INVALID_ARGUMENT names the field at fault, before any work. On CUDA enqueued on the stream.
absl::Status Fp8Rows(const Fp8RowsParams& params);

}  // namespace spotlight::kernels
