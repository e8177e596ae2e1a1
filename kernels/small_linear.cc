#include "kernels/small_linear.h"

#include "absl/strings/str_cat.h"
#include "kernels/cuda/small_linear.h"
#include "kernels/validation.h"

namespace spotlight::kernels {

absl::Status SmallLinear(const SmallLinearParams& params) {
  Validation check("SmallLinear");
  check.Device(params.execution, params.dtype);
  check.That(params.execution.device == DeviceKind::kCuda, "execution.device",
             static_cast<int64_t>(params.execution.device), "CUDA");
  const bool fp8 = params.weight_scale != nullptr;
  if (fp8) {
    check.That(params.dtype == DType::kBF16, "dtype", static_cast<int64_t>(params.dtype), "bf16 with a weight_scale");
    check.Array("weight_scale", params.weight_scale);
  } else {
    check.That(params.dtype != DType::kF32, "dtype", static_cast<int64_t>(params.dtype), "bf16 or fp16");
  }
  check.InRange("num_rows", params.num_rows, 1, MaxSmallLinearRows(fp8));
  check.InRange("num_in", params.num_in, 1, INT32_MAX);
  check.That(params.num_in % 64 == 0, "num_in", params.num_in, "a multiple of 64");
  check.InRange("num_out", params.num_out, 1, INT32_MAX);
  check.That(params.num_out % 16 == 0, "num_out", params.num_out, "a multiple of 16");
  check.Aligned("x", params.x, kVectorBytes);
  check.Aligned("weight", params.weight, kVectorBytes);
  if (params.norm_weight != nullptr) {
    check.That(params.dtype == DType::kBF16, "dtype", static_cast<int64_t>(params.dtype), "bf16 with a norm_weight");
    check.That(!fp8, "weight_scale", fp8, "null with a norm_weight");
    check.That(params.num_in <= kMaxSmallLinearNorm, "num_in", params.num_in,
               absl::StrCat("at most ", kMaxSmallLinearNorm, " with a norm_weight"));
    check.Aligned("norm_weight", params.norm_weight, kVectorBytes);
    check.Positive("norm_eps", params.norm_eps);
  }
  check.InRange("result", static_cast<int64_t>(params.result), 0, static_cast<int64_t>(SmallLinearResult::kSiluMul));
  check.Aligned("out", params.out, kVectorBytes);
  if (!check.ok()) return check.status();
  return CudaStatus("SmallLinear", cuda::SmallLinear(params));
}

}  // namespace spotlight::kernels
