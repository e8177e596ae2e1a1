#include "engine/ops/quality_probe.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "engine/ops/tensor.h"
#include "engine/ops/workspace.h"
#include "kernels/retrieval_quality.h"

namespace spotlight::engine {
namespace {

constexpr int64_t kNumMetrics = 6;

size_t WorkspaceBytes(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim, int32_t max_context,
                      at::Device device) {
  return kernels::RetrievalQualityWorkspaceBytes(
      device.is_cuda() ? kernels::DeviceKind::kCuda : kernels::DeviceKind::kCpu, /*max_rows=*/1, max_context,
      num_q_heads, num_kv_heads, head_dim);
}

at::Tensor Empty(int64_t count, at::ScalarType dtype, at::Device device) {
  return at::empty({count}, at::TensorOptions().dtype(dtype).device(device));
}

kernels::RetrievalQualityParams JudgementOf(const kernels::SparseDecodeParams& row) {
  kernels::RetrievalQualityParams params;
  params.execution = row.execution;
  params.dtype = row.dtype;
  params.num_rows = row.num_rows;
  params.num_q_heads = row.num_q_heads;
  params.num_kv_heads = row.num_kv_heads;
  params.head_dim = row.head_dim;
  params.softmax_scale = row.softmax_scale;
  params.q = row.q;
  params.pages = row.pages;
  params.page_table = row.page_table;
  params.max_pages = row.max_pages;
  params.context_len = row.context_len;
  params.num_select = row.num_select;
  params.sink_tokens = row.sink_tokens;
  params.recent_tokens = row.recent_tokens;
  params.max_context = row.max_context;
  params.sparse_out = row.out;
  return params;
}

}  // namespace

int64_t QualityProbe::Bytes(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim, int32_t max_context,
                            at::ScalarType dtype, at::Device device) {
  const auto out = int64_t{num_q_heads} * head_dim * static_cast<int64_t>(kernels::SizeOf(ToKernelDType(dtype)));
  const int64_t per_head = 4 * (int64_t{max_context} + 1 + kNumMetrics);
  const size_t workspace = WorkspaceBytes(num_q_heads, num_kv_heads, head_dim, max_context, device);
  return out + num_kv_heads * per_head + static_cast<int64_t>(workspace) + kWorkspaceAlignment;
}

QualityProbe::QualityProbe(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim, int32_t max_context,
                           at::ScalarType dtype, at::Device device)
    : num_kv_heads_(num_kv_heads),
      out_(Empty(int64_t{num_q_heads} * head_dim, dtype, device)),
      selected_(Empty(int64_t{num_kv_heads} * max_context, at::kInt, device)),
      num_selected_(Empty(num_kv_heads, at::kInt, device)),
      metrics_(Empty(kNumMetrics * num_kv_heads, at::kFloat, device)),
      workspace_(MakeWorkspace(WorkspaceBytes(num_q_heads, num_kv_heads, head_dim, max_context, device), device)) {}

absl::Status QualityProbe::Measure(kernels::SparseDecodeParams row, int32_t context_len, int32_t num_select) {
  measured_ = false;
  row.max_context = context_len;
  kernels::RetrievalQualityParams params = JudgementOf(row);
  row.out = out_.data_ptr();
  row.selected = selected_.data_ptr<int32_t>();
  row.max_select = std::min(num_select, context_len);
  row.num_selected = num_selected_.data_ptr<int32_t>();
  row.stage_seconds = nullptr;
  row.overlap_encode = false;  // the call before this one is not the encoder's
  if (auto status = kernels::SparseDecode(row); !status.ok()) return status;

  params.selected = row.selected;
  params.max_select = row.max_select;
  params.num_selected = row.num_selected;
  float* metric = metrics_.data_ptr<float>();
  for (float** const out : {&params.recall, &params.iou, &params.candidate_mass, &params.oracle_mass,
                            &params.attention_mass, &params.output_error}) {
    *out = metric;
    metric += num_kv_heads_;
  }
  SetWorkspace(workspace_, &params);
  const absl::Status status = kernels::RetrievalQuality(params);
  measured_ = status.ok();
  return status;
}

absl::optional<RetrievalQuality> QualityProbe::Take() {
  if (!measured_) return absl::nullopt;
  measured_ = false;
  const at::Tensor host = metrics_.cpu();
  const float* const values = host.const_data_ptr<float>();
  const auto mean = [&](int metric) {
    double sum = 0;
    for (int32_t head = 0; head < num_kv_heads_; ++head) sum += values[metric * num_kv_heads_ + head];
    return static_cast<float>(sum / num_kv_heads_);
  };
  RetrievalQuality quality;
  quality.recall = mean(0);
  quality.iou = mean(1);
  quality.attention_mass = mean(4);
  quality.output_error = mean(5);
  return quality;
}

}  // namespace spotlight::engine
