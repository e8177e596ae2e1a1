#include "kernels/pointwise.h"

#include "kernels/cpu/level.h"
#include "kernels/cpu/pointwise.h"
#include "kernels/cuda/launchers.h"
#include "kernels/validation.h"

namespace spotlight::kernels {
namespace {

void CheckWidth(absl::string_view field, int32_t width, Validation* check) {
  check->InRange(field, width, 1, 1 << 24);
  check->That(width % 16 == 0, field, width, "a multiple of 16");
}

}  // namespace

absl::Status AddRmsNorm(const AddRmsNormParams& params) {
  Validation check("AddRmsNorm");
  check.InRange("num_tokens", params.num_tokens, 0, INT32_MAX);
  if (!check.ok() || params.num_tokens == 0) return check.status();
  check.Device(params.execution, params.dtype);
  CheckWidth("hidden", params.hidden, &check);
  check.Positive("eps", params.eps);
  check.NotNull("x", params.x);
  check.NotNull("weight", params.weight);
  check.NotNull("out", params.out);
  if (!check.ok()) return check.status();
  if (params.execution.device == DeviceKind::kCuda) return CudaStatus("AddRmsNorm", cuda::AddRmsNorm(params));
  cpu::AddRmsNorm(params, cpu::BestLevel());
  return absl::OkStatus();
}

absl::Status SiluMul(const SiluMulParams& params) {
  Validation check("SiluMul");
  check.InRange("num_tokens", params.num_tokens, 0, INT32_MAX);
  if (!check.ok() || params.num_tokens == 0) return check.status();
  check.Device(params.execution, params.dtype);
  CheckWidth("intermediate", params.intermediate, &check);
  check.NotNull("gate_up", params.gate_up);
  check.NotNull("out", params.out);
  if (!check.ok()) return check.status();
  if (params.execution.device == DeviceKind::kCuda) return CudaStatus("SiluMul", cuda::SiluMul(params));
  cpu::SiluMul(params, cpu::BestLevel());
  return absl::OkStatus();
}

}  // namespace spotlight::kernels
