// A matrix in e4m3 with a scale for each row: weights, a row for each output, and tokens' activations.
#pragma once

#include <ATen/core/Tensor.h>

namespace spotlight::engine {

struct Fp8Matrix {
  at::Tensor values;  // [R, C] float8_e4m3fn; undefined: none
  at::Tensor scale;   // [R] float: row r is scale[r] * values[r]
};

// rows [R, C] contiguous: on a GPU bf16, and C a multiple of 8. As kernels/fp8_rows.h, the same bits on every device.
Fp8Matrix RoundToFp8(const at::Tensor& rows);

// The products, rounded to `dtype`.
at::Tensor Widen(const Fp8Matrix& matrix, at::ScalarType dtype);

}  // namespace spotlight::engine
