#include "kernels/retrieval_quality.h"

#include "absl/strings/str_cat.h"
#include "kernels/cpu/level.h"
#include "kernels/cpu/retrieval_quality.h"
#include "kernels/cuda/launchers.h"
#include "kernels/token_list.h"
#include "kernels/validation.h"

namespace spotlight::kernels {
namespace {

// What the selection's arrays hold: ascending candidates.
void CheckSelections(const RetrievalQualityParams& params, Validation* check) {
  for (int64_t row = 0; check->ok() && row < params.num_rows; ++row) {
    const Competition competition =
        CompetitionOf(params.context_len[row], params.num_select[row], params.sink_tokens, params.recent_tokens);
    if (competition.num_select == 0) continue;
    for (int64_t kv_head = 0; kv_head < params.num_kv_heads; ++kv_head) {
      const int64_t row_head = row * params.num_kv_heads + kv_head;
      const int32_t count = params.num_selected[row_head];
      if (count < 0 || count > params.max_select) {
        check->InRange(absl::StrCat("num_selected[", row, "][", kv_head, "]"), count, 0, params.max_select);
        return;
      }
      const int32_t* selected = params.selected + row_head * params.max_select;
      const int32_t end = competition.begin + competition.count;
      int32_t low = competition.begin;
      for (int32_t i = 0; i < count; ++i) {
        if (selected[i] < low || selected[i] >= end) {
          check->InRange(absl::StrCat("selected[", row, "][", kv_head, "][", i, "]"), selected[i], low, end - 1);
          return;
        }
        low = selected[i] + 1;
      }
    }
  }
}

absl::Status Validate(const RetrievalQualityParams& params) {
  Validation check("RetrievalQuality");
  check.CachedRows(params);
  check.Selection(params);
  check.Array("selected", params.selected);
  check.InRange("max_select", params.max_select, 1, INT32_MAX);
  check.Array("num_selected", params.num_selected);
  check.Aligned("sparse_out", params.sparse_out, kVectorBytes);
  check.Array("recall", params.recall);
  check.Array("iou", params.iou);
  check.Array("candidate_mass", params.candidate_mass);
  check.Array("oracle_mass", params.oracle_mass);
  check.Array("attention_mass", params.attention_mass);
  check.Array("output_error", params.output_error);
  if (!check.ok()) return check.status();
  if (params.execution.device == DeviceKind::kCpu) {
    check.Rows(params.context_len, params.page_table, params.num_rows, 1, params.max_pages, params.max_context,
               params.pages.num_pages);
    CheckSelections(params, &check);
  }
  check.Workspace(params.workspace, params.workspace_bytes,
                  RetrievalQualityWorkspaceBytes(params.execution.device, 1, params.max_context, params.num_q_heads,
                                                 params.num_kv_heads, params.head_dim));
  return check.status();
}

}  // namespace

size_t RetrievalQualityWorkspaceBytes(DeviceKind device, int32_t max_rows, int32_t max_context, int32_t num_q_heads,
                                      int32_t num_kv_heads, int32_t head_dim) {
  if (device == DeviceKind::kCpu) return 0;  // threads keep their own scratch
  return cuda::RetrievalQualityWorkspaceBytes(max_rows, max_context, num_q_heads, num_kv_heads, head_dim);
}

absl::Status RetrievalQuality(const RetrievalQualityParams& params) {
  Validation check("RetrievalQuality");
  check.InRange("num_rows", params.num_rows, 0, INT32_MAX);
  if (!check.ok() || params.num_rows == 0) return check.status();
  if (absl::Status status = Validate(params); !status.ok()) return status;
  if (params.execution.device == DeviceKind::kCuda) {
    return CudaStatus("RetrievalQuality", cuda::RetrievalQuality(params));
  }
  cpu::RetrievalQuality(params, cpu::BestLevel());
  return absl::OkStatus();
}

}  // namespace spotlight::kernels
