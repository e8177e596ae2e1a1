#include "kernels/sparse_decode.h"

#include "kernels/cpu/level.h"
#include "kernels/cpu/sparse_decode.h"
#include "kernels/cuda/launchers.h"
#include "kernels/validation.h"

namespace spotlight::kernels {
namespace {

absl::Status Validate(const SparseDecodeParams& params) {
  Validation check("SparseDecode");
  // The CUDA kernel names a token by page * P + slot in 32 bits.
  const bool cuda = params.execution.device == DeviceKind::kCuda;
  check.CachedRows(params, cuda ? INT32_MAX / kPageTokens : INT32_MAX);
  check.Selection(params);
  check.OneOf("hash_words", params.hash_words, {1, 2, 4, 8});
  check.InRange("num_planes", params.num_planes, 1, kMaxPlanes);
  if (!check.ok()) return check.status();
  check.InRange("top_plane_weight", params.top_plane_weight, 1, 1 << (params.num_planes - 1));
  check.Planes(params.planes, params.num_planes, params.hash_words);
  check.Aligned("pages.codes", params.pages.codes, kVectorBytes);
  if (params.prefilter) check.Aligned("pages.prefix", params.pages.prefix, kVectorBytes);
  check.Aligned("out", params.out, kVectorBytes);
  if (params.selected != nullptr) check.Array("selected", params.selected);
  check.InRange("max_select", params.max_select, params.selected != nullptr ? 1 : 0, INT32_MAX);
  if (params.num_selected != nullptr) check.Array("num_selected", params.num_selected);
  if (params.stage_seconds != nullptr) check.Array("stage_seconds", params.stage_seconds);
  if (!check.ok()) return check.status();
  if (params.execution.device == DeviceKind::kCpu) {
    check.Rows(params.context_len, params.page_table, params.num_rows, 1, params.max_pages, params.max_context,
               params.pages.num_pages);
  }
  check.Workspace(params.workspace, params.workspace_bytes,
                  SparseDecodeWorkspaceBytes(params.execution.device, params.num_rows, params.max_context,
                                             params.num_q_heads, params.num_kv_heads, params.head_dim));
  return check.status();
}

}  // namespace

size_t SparseDecodeWorkspaceBytes(DeviceKind device, int32_t max_rows, int32_t max_context, int32_t num_q_heads,
                                  int32_t num_kv_heads, int32_t head_dim) {
  if (device == DeviceKind::kCpu) return 0;  // threads keep their own scratch
  return cuda::SparseDecodeWorkspaceBytes(max_rows, max_context, num_q_heads, num_kv_heads, head_dim);
}

absl::Status SparseDecode(const SparseDecodeParams& params) {
  Validation check("SparseDecode");
  check.InRange("num_rows", params.num_rows, 0, INT32_MAX);
  if (!check.ok() || params.num_rows == 0) return check.status();
  if (absl::Status status = Validate(params); !status.ok()) return status;
  if (params.execution.device == DeviceKind::kCuda) return CudaStatus("SparseDecode", cuda::SparseDecode(params));
  cpu::SparseDecode(params, cpu::BestLevel());
  return absl::OkStatus();
}

}  // namespace spotlight::kernels
