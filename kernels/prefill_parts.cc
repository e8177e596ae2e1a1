#include "kernels/prefill_parts.h"

#include "kernels/cuda/prefill_parts.h"
#include "kernels/validation.h"

namespace spotlight::kernels {
namespace {

template <class Params>
void CheckCommon(const Params& params, Validation* check) {
  check->Device(params.execution, params.dtype);
  check->That(params.execution.device == DeviceKind::kCuda, "execution.device",
              static_cast<int64_t>(params.execution.device), "CUDA");
  check->That(params.dtype != DType::kF32, "dtype", static_cast<int64_t>(params.dtype), "bf16 or fp16");
  check->OneOf("head_dim", params.head_dim, {64, 128});
}

}  // namespace

absl::Status GatherPages(const GatherPagesParams& params) {
  Validation check("GatherPages");
  CheckCommon(params, &check);
  check.InRange("num_kv_heads", params.num_kv_heads, 1, UINT16_MAX);
  check.InRange("begin", params.begin, 0, INT32_MAX);
  check.InRange("end", params.end, int64_t{params.begin} + 1, INT32_MAX);
  check.Pages(params.execution, params.dtype, params.pages);
  check.Array("page_table", params.page_table);
  check.Aligned("keys", params.keys, kVectorBytes);
  check.Aligned("values", params.values, kVectorBytes);
  if (!check.ok()) return check.status();
  return CudaStatus("GatherPages", cuda::GatherPages(params));
}

absl::Status MergeAttention(const MergeAttentionParams& params) {
  Validation check("MergeAttention");
  CheckCommon(params, &check);
  check.InRange("num_tokens", params.num_tokens, 1, INT32_MAX);
  check.InRange("num_q_heads", params.num_q_heads, 1, 1 << 16);
  check.InRange("num_parts", params.num_parts, 1, kMaxAttentionParts);
  check.Aligned("out", params.out, kVectorBytes);
  for (int32_t i = 0; check.ok() && i < params.num_parts; ++i) {
    check.Aligned("parts.out", params.parts[i].out, kVectorBytes);
    check.Array("parts.lse", params.parts[i].lse);
  }
  if (!check.ok()) return check.status();
  return CudaStatus("MergeAttention", cuda::MergeAttention(params));
}

}  // namespace spotlight::kernels
