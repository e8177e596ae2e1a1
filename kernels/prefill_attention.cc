#include "kernels/prefill_attention.h"

#include "kernels/cpu/prefill_attention.h"
#include "kernels/cpu/prefill_kernels.h"
#include "kernels/validation.h"

namespace spotlight::kernels {
namespace {

absl::Status Validate(const PrefillAttentionParams& params) {
  Validation check("PrefillAttention");
  check.Device(params.execution, params.dtype);
  check.Heads(params.num_q_heads, params.num_kv_heads, params.head_dim);
  check.Positive("softmax_scale", params.softmax_scale);
  check.NotNull("q", params.q);
  check.Pages(params.execution, params.dtype, params.pages);
  check.InRange("pages.num_pages", params.pages.num_pages, 1, INT32_MAX);
  check.NotNull("page_table", params.page_table);
  check.InRange("max_pages", params.max_pages, 1, INT32_MAX / kPageTokens);
  check.InRange("context_len", params.context_len, params.num_tokens, int64_t{params.max_pages} * kPageTokens);
  check.NotNull("out", params.out);
  if (!check.ok()) return check.status();
  check.Rows(&params.context_len, params.page_table, 1, 1, params.max_pages, params.context_len,
             params.pages.num_pages);
  return check.status();
}

}  // namespace

bool PrefillAttentionSupported(const Execution& execution, DType dtype, int head_dim) {
  return execution.device == DeviceKind::kCpu && dtype == DType::kBF16 && (head_dim == 64 || head_dim == 128) &&
         cpu::BestPrefillKernels() != nullptr;
}

absl::Status PrefillAttention(const PrefillAttentionParams& params) {
  Validation check("PrefillAttention");
  check.InRange("num_tokens", params.num_tokens, 0, INT32_MAX);
  if (!check.ok() || params.num_tokens == 0) return check.status();
  if (absl::Status status = Validate(params); !status.ok()) return status;
  if (!PrefillAttentionSupported(params.execution, params.dtype, params.head_dim)) {
    return absl::UnimplementedError("PrefillAttention: needs bf16 on a CPU with AVX512_BF16");
  }
  cpu::PrefillAttention(params, *cpu::BestPrefillKernels());
  return absl::OkStatus();
}

}  // namespace spotlight::kernels
