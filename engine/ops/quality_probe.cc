#include "engine/ops/quality_probe.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "engine/ops/execution.h"
#include "engine/ops/pinned.h"
#include "engine/ops/tensor.h"
#include "engine/ops/workspace.h"
#include "engine/page_pool.h"
#include "kernels/retrieval_quality.h"

namespace spotlight::engine {
namespace {

constexpr int64_t kNumMetrics = 6;
constexpr int64_t kMaxPlaneWords = kernels::kMaxPlanes * kernels::kMaxHashWords;  // of a row's KV head

size_t WorkspaceBytes(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim, int32_t max_context,
                      at::Device device) {
  return kernels::RetrievalQualityWorkspaceBytes(
      device.is_cuda() ? kernels::DeviceKind::kCuda : kernels::DeviceKind::kCpu, /*max_rows=*/1, max_context,
      num_q_heads, num_kv_heads, head_dim);
}

at::Tensor Empty(at::IntArrayRef shape, at::ScalarType dtype, at::Device device) {
  return at::empty(shape, at::TensorOptions().dtype(dtype).device(device));
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

PendingQuality::~PendingQuality() {
  if (done_ != nullptr) cudaEventSynchronize(done_->event());
}

QualityReading PendingQuality::Wait() const {
  if (done_ != nullptr) done_->synchronize();
  const int64_t num_heads = metrics_.size(1);
  const float* const values = metrics_.const_data_ptr<float>();
  const auto mean = [&](int64_t metric) {
    double sum = 0;
    for (int64_t head = 0; head < num_heads; ++head) sum += values[metric * num_heads + head];
    return static_cast<float>(sum / static_cast<double>(num_heads));
  };
  return {target_, {mean(0), mean(1), mean(4), mean(5)}};
}

int64_t QualityProbe::Bytes(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim, int32_t max_context,
                            at::ScalarType dtype, at::Device device) {
  const auto row = int64_t{num_q_heads} * head_dim * static_cast<int64_t>(kernels::SizeOf(ToKernelDType(dtype)));
  const int64_t per_head = 4 * (int64_t{max_context} + 1 + kNumMetrics + kMaxPlaneWords);
  const size_t workspace = WorkspaceBytes(num_q_heads, num_kv_heads, head_dim, max_context, device);
  return 2 * row + num_kv_heads * per_head + 4 * (2 + PagesFor(max_context)) + static_cast<int64_t>(workspace) +
         kWorkspaceAlignment;
}

QualityProbe::QualityProbe(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim, int32_t max_context,
                           at::ScalarType dtype, at::Device device)
    : device_(device),
      num_kv_heads_(num_kv_heads),
      q_(Empty({1, num_q_heads, head_dim}, dtype, device)),
      out_(Empty({1, num_q_heads, head_dim}, dtype, device)),
      planes_(Empty({num_kv_heads * kMaxPlaneWords}, at::kInt, device)),
      row_(Empty({2 + PagesFor(max_context)}, at::kInt, device)),
      selected_(Empty({int64_t{num_kv_heads} * max_context}, at::kInt, device)),
      num_selected_(Empty({num_kv_heads}, at::kInt, device)),
      metrics_(Empty({kNumMetrics, num_kv_heads}, at::kFloat, device)),
      workspace_(MakeWorkspace(WorkspaceBytes(num_q_heads, num_kv_heads, head_dim, max_context, device), device)) {
  if (device.is_cuda()) stream_ = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device.index());
}

QualityProbe::~QualityProbe() {
  if (stream_.has_value()) cudaStreamSynchronize(stream_->stream());  // it may still read what is given back now
}

at::Tensor QualityProbe::EmptyHost(at::IntArrayRef shape, at::ScalarType dtype) const {
  return device_.is_cuda() ? PinnedEmpty(shape, dtype) : Empty(shape, dtype, at::kCPU);
}

void QualityProbe::Copy(const at::Tensor& to, const at::Tensor& from) const {
  if (device_.is_cuda()) return EnqueueCopy(to, from);
  to.copy_(from);
}

void QualityProbe::AwaitLatest() {
  if (done_ != nullptr) done_->block(c10::cuda::getCurrentCUDAStream(device_.index()));
}

void QualityProbe::Await(const Batch& batch) {
  if (pages_.empty()) return;
  const bool ended = done_ == nullptr || done_->query();
  if (!ended && !pages_.AreWrittenBy(batch.slots)) return;
  if (!ended) AwaitLatest();
  pages_.Clear();
}

void QualityProbe::Keep(const at::Tensor& q, const at::Tensor& planes) {
  AwaitLatest();
  q_[0].copy_(q);
  planes_.narrow(0, 0, planes.numel()).copy_(planes.reshape({-1}));
}

at::Tensor QualityProbe::planes(int32_t num_planes, int32_t hash_words) const {
  const int64_t count = int64_t{num_kv_heads_} * num_planes * hash_words;
  return planes_.narrow(0, 0, count).view({1, num_kv_heads_, num_planes, hash_words});
}

StepTensors QualityProbe::RowOf(const Batch& batch, int32_t row) {
  AwaitLatest();
  context_len_ = batch.context_len[row];
  num_select_ = batch.num_select[row];
  const int32_t num_pages = PagesFor(context_len_);
  const int32_t* const page_table = batch.page_table.data() + int64_t{row} * batch.max_pages;
  host_row_ = EmptyHost({2 + num_pages}, at::kInt);
  auto* const values = host_row_.data_ptr<int32_t>();
  values[0] = context_len_;
  values[1] = num_select_;
  std::copy_n(page_table, num_pages, values + 2);
  Copy(row_.narrow(0, 0, 2 + num_pages), host_row_);
  if (stream_.has_value()) pages_.Assign(page_table, context_len_);

  StepTensors tensors;
  tensors.context_len = row_.narrow(0, 0, 1);
  tensors.num_select = row_.narrow(0, 1, 1);
  tensors.page_table = row_.narrow(0, 2, num_pages).view({1, num_pages});
  tensors.max_context = context_len_;
  return tensors;
}

absl::StatusOr<std::unique_ptr<PendingQuality>> QualityProbe::Measure(kernels::SparseDecodeParams row,
                                                                      const QualityTarget& target) {
  kernels::RetrievalQualityParams params = JudgementOf(row);
  row.selected = selected_.data_ptr<int32_t>();
  row.max_select = std::min(num_select_, context_len_);
  row.num_selected = num_selected_.data_ptr<int32_t>();
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
  const at::Tensor host = EmptyHost(metrics_.sizes(), at::kFloat);
  if (stream_.has_value()) {
    selected_event_.record(c10::cuda::getCurrentCUDAStream(device_.index()));
    selected_event_.block(*stream_);
  }
  const c10::cuda::OptionalCUDAStreamGuard beside(stream_);
  params.execution = ExecutionOn(device_);
  if (auto status = kernels::RetrievalQuality(params); !status.ok()) return status;
  Copy(host, metrics_);
  if (stream_.has_value()) {
    done_ = std::make_shared<at::cuda::CUDAEvent>();
    done_->record(*stream_);
  }
  return std::make_unique<PendingQuality>(target, host, std::move(host_row_), done_);
}

}  // namespace spotlight::engine
