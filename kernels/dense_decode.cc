#include "kernels/dense_decode.h"

#include "kernels/cpu/dense_decode.h"
#include "kernels/cpu/level.h"
#include "kernels/cuda/launchers.h"
#include "kernels/validation.h"

namespace spotlight::kernels {
namespace {

absl::Status Validate(const DenseDecodeParams& params) {
  Validation check("DenseDecode");
  check.CachedRows(params);
  check.InRange("rows_per_table", params.rows_per_table, 1, INT32_MAX);
  check.Aligned("out", params.out, kVectorBytes);
  if (!check.ok()) return check.status();
  if (params.execution.device == DeviceKind::kCpu) {
    check.Rows(params.context_len, params.page_table, params.num_rows, params.rows_per_table, params.max_pages,
               params.max_context, params.pages.num_pages);
  }
  check.Workspace(params.workspace, params.workspace_bytes,
                  DenseDecodeWorkspaceBytes(params.execution.device, params.num_rows, params.max_context,
                                            params.num_q_heads, params.num_kv_heads, params.head_dim));
  return check.status();
}

}  // namespace

size_t DenseDecodeWorkspaceBytes(DeviceKind device, int32_t max_rows, int32_t max_context, int32_t num_q_heads,
                                 int32_t num_kv_heads, int32_t head_dim) {
  if (device == DeviceKind::kCpu) return 0;  // threads keep their own scratch
  return cuda::DenseDecodeWorkspaceBytes(max_rows, max_context, num_q_heads, num_kv_heads, head_dim);
}

absl::Status DenseDecode(const DenseDecodeParams& params) {
  Validation check("DenseDecode");
  check.InRange("num_rows", params.num_rows, 0, INT32_MAX);
  if (!check.ok() || params.num_rows == 0) return check.status();
  if (absl::Status status = Validate(params); !status.ok()) return status;
  if (params.execution.device == DeviceKind::kCuda) return CudaStatus("DenseDecode", cuda::DenseDecode(params));
  cpu::DenseDecode(params, cpu::BestLevel());
  return absl::OkStatus();
}

}  // namespace spotlight::kernels
