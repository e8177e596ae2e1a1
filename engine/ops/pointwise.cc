#include "engine/ops/pointwise.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "engine/ops/execution.h"
#include "engine/ops/tensor.h"
#include "kernels/pointwise.h"

namespace spotlight::engine {

absl::StatusOr<at::Tensor> AddRmsNorm(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& weight,
                                      double eps) {
  at::Tensor out = at::empty_like(x);
  kernels::AddRmsNormParams params;
  params.execution = ExecutionOn(x.device());
  params.dtype = ToKernelDType(x.scalar_type());
  params.num_tokens = static_cast<int32_t>(x.size(0));
  params.hidden = static_cast<int32_t>(x.size(1));
  params.eps = static_cast<float>(eps);
  params.x = x.data_ptr();
  params.delta = delta.defined() ? delta.data_ptr() : nullptr;
  params.weight = weight.data_ptr();
  params.out = out.data_ptr();
  auto status = kernels::AddRmsNorm(params);
  if (!status.ok()) return status;
  return out;
}

absl::StatusOr<at::Tensor> SiluMul(const at::Tensor& gate_up) {
  at::Tensor out = at::empty({gate_up.size(0), gate_up.size(1) / 2}, gate_up.options());
  kernels::SiluMulParams params;
  params.execution = ExecutionOn(gate_up.device());
  params.dtype = ToKernelDType(gate_up.scalar_type());
  params.num_tokens = static_cast<int32_t>(gate_up.size(0));
  params.intermediate = static_cast<int32_t>(out.size(1));
  params.gate_up = gate_up.data_ptr();
  params.out = out.data_ptr();
  auto status = kernels::SiluMul(params);
  if (!status.ok()) return status;
  return out;
}

}  // namespace spotlight::engine
