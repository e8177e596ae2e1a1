#include "engine/ops/spotlight_attention.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/record_function.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/ops/execution.h"
#include "engine/ops/prefill_attention.h"
#include "engine/ops/tensor.h"
#include "engine/ops/workspace.h"
#include "kernels/chunk_attention.h"
#include "kernels/dense_decode.h"
#include "kernels/prefill_attention.h"
#include "kernels/sparse_decode.h"

namespace spotlight::engine {
namespace {

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

struct WorkspaceBytes {
  size_t sparse, dense, chunk;
  size_t total() const { return sparse + dense + chunk; }
};

WorkspaceBytes WorkspacesOf(const AttentionShape& shape, const AttentionOptions& options, at::ScalarType dtype,
                            at::Device device) {
  const auto kind = device.is_cuda() ? kernels::DeviceKind::kCuda : kernels::DeviceKind::kCpu;
  const int32_t dense_rows =
      dtype == at::kFloat ? std::max(options.max_decode_rows, options.max_chunk_tokens) : options.max_decode_rows;
  return {kernels::SparseDecodeWorkspaceBytes(kind, options.max_decode_rows, options.max_context, shape.num_q_heads,
                                              shape.num_kv_heads, shape.head_dim),
          kernels::DenseDecodeWorkspaceBytes(kind, dense_rows, options.max_context, shape.num_q_heads,
                                             shape.num_kv_heads, shape.head_dim),
          device.is_cuda() && dtype != at::kFloat
              ? kernels::ChunkAttentionWorkspaceBytes(kernels::kMaxChunkQueries, shape.num_q_heads, shape.num_kv_heads,
                                                      shape.head_dim)
              : 0};
}

}  // namespace

int64_t SpotlightAttention::ScratchBytes(const AttentionShape& shape, const AttentionOptions& options,
                                         at::ScalarType dtype, at::Device device) {
  if (device.is_cpu()) return 0;
  const WorkspaceBytes workspaces = WorkspacesOf(shape, options, dtype, device);
  const int64_t probe = options.measure_quality
                            ? QualityProbe::Bytes(shape.num_q_heads, shape.num_kv_heads, shape.head_dim,
                                                  options.max_context, dtype, device)
                            : 0;
  const int64_t prefill = dtype == at::kFloat
                              ? 0
                              : PrefillAttentionBytes(shape.num_q_heads, shape.num_kv_heads, shape.head_dim,
                                                      options.max_chunk_tokens, options.max_context, PrefillBlocks());
  return static_cast<int64_t>(workspaces.total()) + prefill + probe;
}

absl::StatusOr<SpotlightAttention> SpotlightAttention::Create(const AttentionShape& shape,
                                                              const AttentionOptions& options,
                                                              const std::vector<float>& inv_freq, float rope_scale,
                                                              KvCache* cache, at::ScalarType dtype, at::Device device) {
  SpotlightAttention attention;
  attention.shape_ = shape;
  attention.options_ = options;
  attention.rope_scale_ = rope_scale;
  attention.softmax_scale_ = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  attention.cache_ = cache;
  attention.device_ = device;
  const WorkspaceBytes bytes = WorkspacesOf(shape, options, dtype, device);
  try {
    attention.inv_freq_ = at::tensor(inv_freq, at::kFloat).to(device);
    attention.sparse_workspace_ = MakeWorkspace(bytes.sparse, device);
    attention.dense_workspace_ = MakeWorkspace(bytes.dense, device);
    attention.chunk_workspace_ = MakeWorkspace(bytes.chunk, device);
    attention.stages_ = at::empty({3}, at::TensorOptions().dtype(at::kDouble).device(device));
    if (options.measure_quality) {
      attention.probe_ = std::make_unique<QualityProbe>(shape.num_q_heads, shape.num_kv_heads, shape.head_dim,
                                                        options.max_context, dtype, device);
    }
  } catch (const c10::Error& error) {
    return absl::ResourceExhaustedError(absl::StrCat("attention workspace of ", bytes.total() >> 20,
                                                     " MiB does not fit: ", error.what_without_backtrace()));
  }
  return attention;
}

void SpotlightAttention::Synchronize() const {
  if (device_.is_cuda()) c10::cuda::getCurrentCUDAStream(device_.index()).synchronize();
}

absl::StatusOr<at::Tensor> SpotlightAttention::Forward(int32_t layer, const at::Tensor& qkv, const LayerHash* hash,
                                                       const StepTensors& step, RetrievalSeconds* seconds) {
  const Batch& batch = *step.batch;
  const int64_t tokens = qkv.size(0);
  const int32_t num_sparse = hash != nullptr ? batch.num_decode_rows - batch.num_dense_rows : 0;
  // Encoding a prompt's chunk is prefill: only a step that just decodes measures retrieval.
  const bool timed = seconds != nullptr && num_sparse > 0 && batch.num_rows == batch.num_decode_rows;
  at::Tensor q = at::empty({tokens, shape_.num_q_heads, shape_.head_dim}, qkv.options());
  at::Tensor out = at::empty_like(q);
  at::Tensor planes, plane_unit;
  if (num_sparse > 0) {
    planes = at::empty({batch.num_decode_rows, shape_.num_kv_heads, hash->weights.num_planes, hash->weights.hash_words},
                       qkv.options().dtype(at::kInt));
    plane_unit = at::empty({batch.num_decode_rows, shape_.num_kv_heads}, qkv.options().dtype(at::kFloat));
  }
  if (timed) Synchronize();
  const auto start = std::chrono::steady_clock::now();
  if (auto status = Encode(layer, qkv, hash, step, q, planes, plane_unit); !status.ok()) return status;
  if (timed) {
    Synchronize();
    seconds->encode += SecondsSince(start);
  }
  // A layer without a hash attends to everything, whatever the row asks for.
  const int32_t num_dense = hash != nullptr ? batch.num_dense_rows : batch.num_decode_rows;
  if (num_dense > 0) {
    auto status = DenseRows(layer, q.narrow(0, 0, num_dense), step.page_table, step.context_len, 1, step.max_context,
                            out.narrow(0, 0, num_dense));
    if (!status.ok()) return status;
  }
  if (num_sparse > 0) {
    const auto sparse_start = std::chrono::steady_clock::now();
    auto status = SparseRows(layer, *hash, q, planes, step, out, timed ? seconds : nullptr);
    if (!status.ok()) return status;
    if (timed) {
      Synchronize();
      seconds->total += SecondsSince(sparse_start);
    }
    status = MeasureQuality(layer, *hash, q, planes, step, out);
    if (!status.ok()) return status;
  }
  for (int32_t row = batch.num_decode_rows; row < batch.num_rows; ++row) {
    if (auto status = PrefillRow(layer, row, q, step, out); !status.ok()) return status;
  }
  return out.view({tokens, int64_t{shape_.num_q_heads} * shape_.head_dim});
}

absl::Status SpotlightAttention::Append(int32_t layer, const at::Tensor& qkv, const LayerHash* hash,
                                        const StepTensors& step) {
  const at::Tensor q = at::empty({qkv.size(0), shape_.num_q_heads, shape_.head_dim}, qkv.options());
  return Encode(layer, qkv, hash, step, q, at::Tensor(), at::Tensor());
}

absl::Status SpotlightAttention::AppendRandom(int32_t layer, const LayerHash* hash, const StepTensors& step,
                                              at::ScalarType dtype) {
  const int64_t tokens = step.token_ids.size(0);
  const int64_t width = int64_t{shape_.num_q_heads + 2 * shape_.num_kv_heads} * shape_.head_dim;
  return Append(layer, at::randn({tokens, width}, at::TensorOptions().dtype(dtype).device(device_)), hash, step);
}

absl::Status SpotlightAttention::Encode(int32_t layer, const at::Tensor& qkv, const LayerHash* hash,
                                        const StepTensors& step, const at::Tensor& q, const at::Tensor& planes,
                                        const at::Tensor& plane_unit) {
  RECORD_USER_SCOPE("spotlight::encode_and_append");  // as profiles show it
  const int64_t q_width = int64_t{shape_.num_q_heads} * shape_.head_dim;
  const int64_t kv_width = int64_t{shape_.num_kv_heads} * shape_.head_dim;
  const auto* base = static_cast<const char*>(qkv.data_ptr());
  const auto element = static_cast<int64_t>(qkv.element_size());
  kernels::EncodeAndAppendParams params;
  params.execution = ExecutionOn(device_);
  params.dtype = ToKernelDType(qkv.scalar_type());
  params.num_tokens = static_cast<int32_t>(qkv.size(0));
  params.num_plane_tokens = planes.defined() ? static_cast<int32_t>(planes.size(0)) : 0;
  params.num_q_heads = shape_.num_q_heads;
  params.num_kv_heads = shape_.num_kv_heads;
  params.head_dim = shape_.head_dim;
  params.q = base;
  params.k = base + q_width * element;
  params.v = base + (q_width + kv_width) * element;
  params.q_stride = params.k_stride = params.v_stride = qkv.size(1);
  params.inv_freq = inv_freq_.data_ptr<float>();
  params.rope_scale = rope_scale_;
  params.positions = step.positions.data_ptr<int32_t>();
  params.slots = step.slots.data_ptr<int64_t>();
  params.hash = hash != nullptr ? &hash->weights : nullptr;
  params.pages = cache_->layer(layer);
  params.q_out = q.data_ptr();
  if (planes.defined()) {
    params.planes = static_cast<uint32_t*>(planes.data_ptr());
    params.plane_unit = plane_unit.data_ptr<float>();
  }
  return kernels::EncodeAndAppend(params);
}

template <class Params>
Params SpotlightAttention::ParamsFor(int32_t layer, const at::Tensor& q, const at::Tensor& out) const {
  Params params;
  params.execution = ExecutionOn(device_);
  params.dtype = ToKernelDType(q.scalar_type());
  params.num_q_heads = shape_.num_q_heads;
  params.num_kv_heads = shape_.num_kv_heads;
  params.head_dim = shape_.head_dim;
  params.softmax_scale = softmax_scale_;
  params.q = q.data_ptr();
  params.pages = cache_->layer(layer);
  params.out = out.data_ptr();
  return params;
}

absl::Status SpotlightAttention::DenseRows(int32_t layer, const at::Tensor& q, const at::Tensor& page_table,
                                           const at::Tensor& context_len, int32_t rows_per_table, int32_t max_context,
                                           const at::Tensor& out) {
  RECORD_USER_SCOPE("spotlight::dense_decode");
  auto params = ParamsFor<kernels::DenseDecodeParams>(layer, q, out);
  params.num_rows = static_cast<int32_t>(q.size(0));
  params.page_table = page_table.data_ptr<int32_t>();
  params.rows_per_table = rows_per_table;
  params.max_pages = static_cast<int32_t>(page_table.size(1));
  params.context_len = context_len.data_ptr<int32_t>();
  params.max_context = max_context;
  SetWorkspace(dense_workspace_, &params);
  return kernels::DenseDecode(params);
}

kernels::SparseDecodeParams SpotlightAttention::SparseParams(int32_t layer, const LayerHash& hash, const at::Tensor& q,
                                                             const at::Tensor& planes, const StepTensors& step,
                                                             const at::Tensor& out, int32_t begin, int32_t count,
                                                             const SparseRun& run) const {
  auto params = ParamsFor<kernels::SparseDecodeParams>(layer, q.narrow(0, begin, count), out.narrow(0, begin, count));
  params.num_rows = count;
  params.hash_words = hash.weights.hash_words;
  params.num_planes = hash.weights.num_planes;
  params.top_plane_weight = 1 << (hash.weights.num_planes - 1);
  params.prefilter = options_.prefilter;
  params.planes = static_cast<const uint32_t*>(planes.narrow(0, begin, count).data_ptr());
  params.max_pages = static_cast<int32_t>(step.page_table.size(1));
  params.page_table = step.page_table.data_ptr<int32_t>() + int64_t{begin} * params.max_pages;
  params.context_len = step.context_len.data_ptr<int32_t>() + begin;
  params.num_select = step.num_select.data_ptr<int32_t>() + begin;
  params.sink_tokens = run.sink_tokens;
  params.recent_tokens = run.recent_tokens;
  params.max_context = step.max_context;
  SetWorkspace(sparse_workspace_, &params);
  return params;
}

std::vector<SparseRun> SpotlightAttention::SparseRuns(const Batch& batch) const {
  if (!batch.sparse_runs.empty()) return batch.sparse_runs;
  return {{batch.num_decode_rows, options_.sink_tokens, options_.recent_tokens}};
}

absl::Status SpotlightAttention::SparseRows(int32_t layer, const LayerHash& hash, const at::Tensor& q,
                                            const at::Tensor& planes, const StepTensors& step, const at::Tensor& out,
                                            RetrievalSeconds* seconds) {
  RECORD_USER_SCOPE("spotlight::sparse_decode");
  int32_t begin = step.batch->num_dense_rows;
  for (const SparseRun& run : SparseRuns(*step.batch)) {
    kernels::SparseDecodeParams params = SparseParams(layer, hash, q, planes, step, out, begin, run.end - begin, run);
    static_assert(sizeof(kernels::SparseDecodeStages) == 3 * sizeof(double));
    if (seconds != nullptr) params.stage_seconds = static_cast<kernels::SparseDecodeStages*>(stages_.data_ptr());
    // Each sequence of a step's decode rows has appended one token, and nothing but the encoder ran since.
    params.overlap_encode = device_.is_cuda() && begin == 0;
    if (auto status = kernels::SparseDecode(params); !status.ok()) return status;
    if (seconds != nullptr) {
      const at::Tensor stages = stages_.cpu();  // waits for the device: this step is a measured one
      const double* values = stages.const_data_ptr<double>();
      seconds->score += values[0];
      seconds->select += values[1];
      seconds->attend += values[2];
    }
    begin = run.end;
  }
  return absl::OkStatus();
}

absl::Status SpotlightAttention::MeasureQuality(int32_t layer, const LayerHash& hash, const at::Tensor& q,
                                                const at::Tensor& planes, const StepTensors& step,
                                                const at::Tensor& out) {
  const absl::optional<QualityTarget>& target = step.batch->quality;
  if (!target.has_value() || target->layer != layer || probe_ == nullptr) return absl::OkStatus();
  const std::vector<SparseRun> runs = SparseRuns(*step.batch);
  const auto run = std::find_if(runs.begin(), runs.end(), [&](const SparseRun& r) { return target->row < r.end; });
  return probe_->Measure(SparseParams(layer, hash, q, planes, step, out, target->row, 1, *run),
                         step.batch->context_len[target->row], step.batch->num_select[target->row]);
}

absl::optional<RetrievalQuality> SpotlightAttention::TakeQuality() {
  return probe_ == nullptr ? absl::nullopt : probe_->Take();
}

absl::Status SpotlightAttention::PrefillRow(int32_t layer, int32_t row, const at::Tensor& q, const StepTensors& step,
                                            const at::Tensor& out) {
  const int32_t begin = step.batch->query_begin[row];
  const int32_t count = step.batch->query_begin[row + 1] - begin;
  const int32_t context = step.batch->context_len[row];
  at::Tensor chunk_q = q.narrow(0, begin, count);
  at::Tensor chunk_out = out.narrow(0, begin, count);
  at::Tensor pages = step.page_table.narrow(0, row, 1);
  if (q.scalar_type() == at::kFloat) {
    // Each prompt token as a decode row of its own length: the same sums in the same order as decoding, however the
    // prompt was cut into chunks.
    return DenseRows(layer, chunk_q, pages, step.token_context.narrow(0, begin, count), count, step.max_context,
                     chunk_out);
  }
  if (device_.is_cuda() && count <= kernels::kMaxChunkQueries) {
    return ShortChunk(layer, chunk_q, pages, step.token_context.narrow(0, begin, count), chunk_out);
  }
  if (kernels::PrefillAttentionSupported(ExecutionOn(device_), ToKernelDType(q.scalar_type()), shape_.head_dim)) {
    return PrefillInPlace(layer, chunk_q, pages, context, chunk_out);
  }
  return PrefillAttention(chunk_q, cache_->kv(layer), pages.view({-1}), context, softmax_scale_, PrefillBlocks(),
                          chunk_out);
}

absl::Status SpotlightAttention::ShortChunk(int32_t layer, const at::Tensor& q, const at::Tensor& pages,
                                            const at::Tensor& token_context, const at::Tensor& out) {
  RECORD_USER_SCOPE("spotlight::chunk_attention");
  auto params = ParamsFor<kernels::ChunkAttentionParams>(layer, q, out);
  params.num_tokens = static_cast<int32_t>(q.size(0));
  params.page_table = pages.data_ptr<int32_t>();
  params.max_pages = static_cast<int32_t>(pages.size(1));
  params.context_len = token_context.data_ptr<int32_t>();
  SetWorkspace(chunk_workspace_, &params);
  return kernels::ChunkAttention(params);
}

absl::Status SpotlightAttention::PrefillInPlace(int32_t layer, const at::Tensor& q, const at::Tensor& pages,
                                                int32_t context, const at::Tensor& out) {
  RECORD_USER_SCOPE("spotlight::prefill_attention");
  auto params = ParamsFor<kernels::PrefillAttentionParams>(layer, q, out);
  params.num_tokens = static_cast<int32_t>(q.size(0));
  params.page_table = pages.data_ptr<int32_t>();
  params.max_pages = static_cast<int32_t>(pages.size(1));
  params.context_len = context;
  return kernels::PrefillAttention(params);
}

}  // namespace spotlight::engine
