// y = x W^T + b with weights laid out once for the machine at hand, and what stands around it in a decoder's layer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/model/fp8_matrix.h"
#include "engine/model/quantization.h"
#include "engine/model/residual_stream.h"
#include "kernels/small_linear.h"

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
//
// OfNorm, SiluMulOfNorm and AddTo are one kernel each where kernels/small_linear.h takes the rows, else, and with fp8
// weights, whose kernel has no time to spare, operations one after the other. They alone decide which.
class Linear {
 public:
  Linear() = default;
  // weight [N, K] on the CPU or a GPU, in the compute dtype, which is bf16 for fp8 on a GPU; bias [N] or undefined.
  // `weight` may be dropped afterwards.
  Linear(const at::Tensor& weight, const at::Tensor& bias, Quantization quantization = Quantization::kNone);

  // x [T, K] contiguous -> [T, N].
  at::Tensor operator()(const at::Tensor& x) const;

  // The stream's norm in x's place. An update that waits is added to the stream.
  absl::StatusOr<at::Tensor> OfNorm(const RmsNorm& norm, ResidualStream* stream) const;
  // silu(gate) * up [T, N / 2] of that, where the outputs are gate, then up.
  absl::StatusOr<at::Tensor> SiluMulOfNorm(const RmsNorm& norm, ResidualStream* stream) const;
  // Adds x W^T + b to the stream, in which no update waits: at once or as its update.
  void AddTo(const at::Tensor& x, ResidualStream* stream) const;

  // Whether this CPU multiplies bf16 matrices in hardware, which is when oneDNN takes them.
  static bool HasFastBf16();
  // Whether the GPU's tensor cores multiply fp8.
  static bool MultipliesFp8(at::Device device);

 private:
  bool TakesFewRows(const at::Tensor& x) const;
  bool Fuses(const at::Tensor& x) const;
  bool FusesNorm(const ResidualStream& stream) const;
  // `out` undefined: a new one.
  at::Tensor FewRows(const at::Tensor& x, const RmsNorm* norm, kernels::SmallLinearResult result, at::Tensor out) const;
  at::Tensor ManyRowsFp8(const at::Tensor& x) const;

  at::Tensor weight_;  // plain [N, K], or oneDNN's own layout
  Fp8Matrix fp8_;      // in its place
  at::Tensor bias_;
  int64_t num_out_ = 0;
  bool prepacked_ = false;
};

}  // namespace spotlight::engine
