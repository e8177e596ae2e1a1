#include "engine/model/fp8_matrix.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include <string>

#include "engine/ops/execution.h"
#include "engine/ops/tensor.h"
#include "kernels/fp8_rows.h"

namespace spotlight::engine {

Fp8Matrix RoundToFp8(const at::Tensor& rows) {
  Fp8Matrix matrix;
  matrix.values = at::empty(rows.sizes(), rows.options().dtype(at::kFloat8_e4m3fn));
  matrix.scale = at::empty({rows.size(0)}, rows.options().dtype(at::kFloat));
  kernels::Fp8RowsParams params;
  params.execution = ExecutionOn(rows.device());
  params.dtype = ToKernelDType(rows.scalar_type());
  params.num_rows = rows.size(0);
  params.num_columns = static_cast<int32_t>(rows.size(1));
  params.x = rows.data_ptr();
  params.out = matrix.values.data_ptr();
  params.scale = matrix.scale.data_ptr<float>();
  const absl::Status status = kernels::Fp8Rows(params);
  TORCH_CHECK(status.ok(), std::string(status.message()));
  return matrix;
}

at::Tensor Widen(const Fp8Matrix& matrix, at::ScalarType dtype) {
  return matrix.values.to(at::kFloat).mul_(matrix.scale.unsqueeze(1)).to(dtype);
}

}  // namespace spotlight::engine
