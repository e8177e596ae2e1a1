// y = x W^T + b with weights laid out once for the machine at hand.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "engine/model/fp8_matrix.h"
#include "engine/model/quantization.h"

namespace spotlight::engine {

// Thread-compatible.
//
// On the CPU the weights are reordered for oneDNN. In fp32 a row's result is bit-identical whatever the number of rows:
// rows go through in tiles of one fixed size, because a GEMM's summation order may depend on its shape. On a GPU the
// few rows of a decode step take kernels/small_linear.h, more cuBLAS.
//
// With fp8 weights a GPU multiplies up to kMaxSmallLinearFp8Rows rows by them as they are: the products have bf16's
// accuracy. More rows are rounded to fp8 themselves, each with a scale of its own, and go through LibTorch's row-wise
// scaled product (compute capability 8.9 and later; before, and for sizes that neither takes, the weights are widened
// to bf16 for every call). On the CPU the weights are rounded to fp8 and widened again as they are laid out.
class Linear {
 public:
  Linear() = default;
  // weight [N, K] on the CPU or a GPU, in the compute dtype, which is bf16 for fp8 on a GPU; bias [N] or undefined.
  // `weight` may be dropped afterwards.
  Linear(const at::Tensor& weight, const at::Tensor& bias, Quantization quantization = Quantization::kNone);

  // x [T, K] contiguous -> [T, N].
  at::Tensor operator()(const at::Tensor& x) const;

  // Whether this CPU multiplies bf16 matrices in hardware, which is when oneDNN takes them.
  static bool HasFastBf16();
  // Whether the GPU's tensor cores multiply fp8.
  static bool MultipliesFp8(at::Device device);

 private:
  at::Tensor FewRows(const at::Tensor& x) const;
  at::Tensor ManyRowsFp8(const at::Tensor& x) const;

  at::Tensor weight_;  // plain [N, K], or oneDNN's own layout
  Fp8Matrix fp8_;      // in its place
  at::Tensor bias_;
  int64_t num_out_ = 0;
  bool prepacked_ = false;
};

}  // namespace spotlight::engine
