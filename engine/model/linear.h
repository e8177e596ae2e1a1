// y = x W^T + b with weights laid out once for the machine at hand.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace spotlight::engine {

// Thread-compatible.
//
// On the CPU the weights are reordered for oneDNN. In fp32 a row's result is bit-identical whatever the number of rows:
// rows go through in tiles of one fixed size, because a GEMM's summation order may depend on its shape. On a GPU the
// few rows of a decode step take kernels/small_linear.h, more cuBLAS.
class Linear {
 public:
  Linear() = default;
  // weight [N, K] on the CPU or a GPU, in the compute dtype; bias [N] or undefined. `weight` may be dropped afterwards.
  Linear(const at::Tensor& weight, const at::Tensor& bias);

  // x [T, K] contiguous -> [T, N].
  at::Tensor operator()(const at::Tensor& x) const;

  // Whether this CPU multiplies bf16 matrices in hardware, which is when oneDNN takes them.
  static bool HasFastBf16();

 private:
  at::Tensor FewRows(const at::Tensor& x) const;

  at::Tensor weight_;  // plain [N, K], or oneDNN's own layout
  at::Tensor bias_;
  int64_t num_out_ = 0;
  bool prepacked_ = false;
};

}  // namespace spotlight::engine
