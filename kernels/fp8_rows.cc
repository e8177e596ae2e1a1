#include "kernels/fp8_rows.h"

#include <algorithm>
#include <cmath>

#include "kernels/cuda/fp8_rows.h"
#include "kernels/e4m3.h"
#include "kernels/validation.h"

namespace spotlight::kernels {
namespace {

void RoundRow(const Fp8RowsParams& params, int64_t row) {
  const int64_t begin = row * params.num_columns;
  float largest = 0;
  for (int32_t k = 0; k < params.num_columns; ++k) {
    largest = std::max(largest, std::abs(LoadElement(params.x, params.dtype, begin + k)));
  }
  const float scale = E4m3Scale(largest);
  params.scale[row] = scale;
  auto* const out = static_cast<E4m3*>(params.out) + begin;
  for (int32_t k = 0; k < params.num_columns; ++k) {
    RoundTo(LoadElement(params.x, params.dtype, begin + k) / scale, out + k);
  }
}

}  // namespace

absl::Status Fp8Rows(const Fp8RowsParams& params) {
  Validation check("Fp8Rows");
  const bool cuda = params.execution.device == DeviceKind::kCuda;
  check.Device(params.execution, params.dtype);
  check.InRange("num_rows", params.num_rows, 1, INT32_MAX);
  check.InRange("num_columns", params.num_columns, 1, INT32_MAX);
  check.Array("scale", params.scale);
  if (cuda) {
    check.That(params.dtype == DType::kBF16, "dtype", static_cast<int64_t>(params.dtype), "bf16");
    check.That(params.num_columns % 8 == 0, "num_columns", params.num_columns, "a multiple of 8");
    check.Aligned("x", params.x, kVectorBytes);
    check.Aligned("out", params.out, kVectorBytes / 2);
  } else {
    check.Aligned("x", params.x, SizeOf(params.dtype));
    check.NotNull("out", params.out);
  }
  if (!check.ok()) return check.status();
  if (cuda) return CudaStatus("Fp8Rows", cuda::Fp8Rows(params));
  const auto rows = [&params](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) RoundRow(params, row);
  };
  if (params.execution.parallel_for != nullptr) {
    (*params.execution.parallel_for)(params.num_rows, rows);
  } else {
    rows(0, params.num_rows);
  }
  return absl::OkStatus();
}

}  // namespace spotlight::kernels
