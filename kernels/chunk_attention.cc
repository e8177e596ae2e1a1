#include "kernels/chunk_attention.h"

#include "kernels/cuda/chunk_attention.h"
#include "kernels/validation.h"

namespace spotlight::kernels {

size_t ChunkAttentionWorkspaceBytes(int32_t max_tokens, int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim) {
  return cuda::ChunkAttentionWorkspaceBytes(max_tokens, num_q_heads, num_kv_heads, head_dim);
}

absl::Status ChunkAttention(const ChunkAttentionParams& params) {
  Validation check("ChunkAttention");
  check.Device(params.execution, params.dtype);
  check.That(params.execution.device == DeviceKind::kCuda, "execution.device",
             static_cast<int64_t>(params.execution.device), "CUDA");
  check.That(params.dtype != DType::kF32, "dtype", static_cast<int64_t>(params.dtype), "bf16 or fp16");
  check.InRange("num_tokens", params.num_tokens, 1, kMaxChunkQueries);
  check.Heads(params.num_q_heads, params.num_kv_heads, params.head_dim);
  check.Positive("softmax_scale", params.softmax_scale);
  check.Aligned("q", params.q, kVectorBytes);
  check.Pages(params.execution, params.dtype, params.pages);
  check.That(params.pages.kv_scale == nullptr, "pages.kv_scale", 1, "null: keys and values are of dtype");
  check.InRange("pages.num_pages", params.pages.num_pages, 1, INT32_MAX);
  check.Array("page_table", params.page_table);
  check.InRange("max_pages", params.max_pages, 1, INT32_MAX / kPageTokens);
  check.Array("context_len", params.context_len);
  check.Aligned("out", params.out, kVectorBytes);
  if (!check.ok()) return check.status();
  check.Workspace(
      params.workspace, params.workspace_bytes,
      ChunkAttentionWorkspaceBytes(params.num_tokens, params.num_q_heads, params.num_kv_heads, params.head_dim));
  if (!check.ok()) return check.status();
  return CudaStatus("ChunkAttention", cuda::ChunkAttention(params));
}

}  // namespace spotlight::kernels
