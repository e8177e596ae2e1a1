#include "engine/ops/spotlight_attention.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
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
#include "engine/page_pool.h"
#include "kernels/chunk_attention.h"
#include "kernels/dense_decode.h"
#include "kernels/prefill_attention.h"
#include "kernels/sparse_decode.h"

namespace spotlight::engine {
namespace {

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

constexpr int64_t kMaxPlaneWords = kernels::kMaxPlanes * kernels::kMaxHashWords;

// What measurements want to know of a row and layer.
int64_t KeptRowBytes(const AttentionShape& shape, at::ScalarType dtype) {
  return int64_t{shape.num_q_heads} * shape.head_dim * static_cast<int64_t>(c10::elementSize(dtype)) +
         4 * kMaxPlaneWords * shape.num_kv_heads;
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
                                         int32_t num_layers, at::ScalarType dtype, at::Device device) {
  if (device.is_cpu()) return 0;
  const WorkspaceBytes workspaces = WorkspacesOf(shape, options, dtype, device);
  const int64_t probe = options.measure_quality
                            ? QualityProbe::Bytes(shape.num_q_heads, shape.num_kv_heads, shape.head_dim,
                                                  options.max_context, dtype, device)
                            : 0;
  const int64_t kept = options.measure_quality ? options.num_graph_layers * KeptRowBytes(shape, dtype) : 0;
  const int64_t prefill = dtype == at::kFloat
                              ? 0
                              : PrefillAttentionBytes(shape.num_q_heads, shape.num_kv_heads, shape.head_dim,
                                                      options.max_chunk_tokens, options.max_context, PrefillBlocks());
  return static_cast<int64_t>(workspaces.total()) + RetrievalClocks::Bytes(num_layers, options.max_decode_rows) +
         prefill + probe + kept * options.max_decode_rows;
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
    if (device.is_cuda()) {
      attention.clocks_ = std::make_unique<RetrievalClocks>(cache->num_layers(), options.max_decode_rows, device);
    }
    if (options.measure_quality) {
      attention.probe_ = std::make_unique<QualityProbe>(shape.num_q_heads, shape.num_kv_heads, shape.head_dim,
                                                        options.max_context, dtype, device);
      if (device.is_cuda() && options.num_graph_layers > 0) {
        const int64_t layers = options.num_graph_layers, rows = options.max_decode_rows;
        const auto on_device = at::TensorOptions().dtype(dtype).device(device);
        attention.kept_q_ = at::empty({layers, rows, shape.num_q_heads, shape.head_dim}, on_device);
        attention.kept_planes_ =
            at::empty({layers, rows * shape.num_kv_heads * kMaxPlaneWords}, on_device.dtype(at::kInt));
      }
    }
  } catch (const c10::Error& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("attention's workspaces of ", bytes.total() >> 20, " MiB and what it keeps do not fit in ",
                     device.is_cuda() ? "device memory: " : "memory: ", error.what_without_backtrace()));
  }
  return attention;
}

bool SpotlightAttention::HasClocks(const Batch& batch) const {
  return clocks_ != nullptr && batch.num_dense_rows < batch.num_decode_rows && batch.num_rows == batch.num_decode_rows;
}

at::Tensor SpotlightAttention::KeptPlanes(int32_t layer, int32_t tokens, const LayerHash& hash) const {
  const int64_t words = int64_t{hash.weights.num_planes} * hash.weights.hash_words;
  return kept_planes_[layer]
      .narrow(0, 0, tokens * shape_.num_kv_heads * words)
      .view({tokens, shape_.num_kv_heads, hash.weights.num_planes, hash.weights.hash_words});
}

absl::StatusOr<at::Tensor> SpotlightAttention::Forward(int32_t layer, const at::Tensor& qkv, const LayerHash* hash,
                                                       const StepTensors& step, RetrievalSeconds* seconds) {
  const Batch& batch = *step.batch;
  const int64_t tokens = qkv.size(0);
  const int32_t num_sparse = hash != nullptr ? batch.num_decode_rows - batch.num_dense_rows : 0;
  // Encoding a prompt's chunk is prefill: only a step that just decodes measures retrieval.
  const bool just_retrieves = num_sparse > 0 && batch.num_rows == batch.num_decode_rows;
  const bool timed = seconds != nullptr && clocks_ == nullptr && just_retrieves;
  const bool kept = kept_q_.defined() && just_retrieves;
  at::Tensor q = kept ? kept_q_[layer].narrow(0, 0, tokens)
                      : at::empty({tokens, shape_.num_q_heads, shape_.head_dim}, qkv.options());
  at::Tensor out = at::empty_like(q);
  at::Tensor planes, plane_unit;
  if (num_sparse > 0) {
    planes = kept ? KeptPlanes(layer, batch.num_decode_rows, *hash)
                  : at::empty({batch.num_decode_rows, shape_.num_kv_heads, hash->weights.num_planes,
                               hash->weights.hash_words},
                              qkv.options().dtype(at::kInt));
    plane_unit = at::empty({batch.num_decode_rows, shape_.num_kv_heads}, qkv.options().dtype(at::kFloat));
  }
  uint64_t* const start_ns = num_sparse > 0 && HasClocks(batch) ? clocks_->EncodeStart(layer) : nullptr;
  const auto start = std::chrono::steady_clock::now();
  if (auto status = Encode(layer, qkv, hash, step, q, planes, plane_unit, start_ns); !status.ok()) return status;
  if (timed) seconds->encode += SecondsSince(start);
  // Before the dense rows: it overlaps with the encoder, and its clocks follow the encoder's.
  if (num_sparse > 0) {
    const auto sparse_start = std::chrono::steady_clock::now();
    auto status = SparseRows(layer, *hash, q, planes, step, out, timed ? seconds : nullptr);
    if (!status.ok()) return status;
    if (timed) seconds->total += SecondsSince(sparse_start);
    if (probe_ != nullptr && batch.quality.has_value() && batch.quality->layer == layer) {
      probe_->Keep(q[batch.quality->row], planes[batch.quality->row]);
    }
  }
  // A layer without a hash attends to everything, whatever the row asks for.
  const int32_t num_dense = hash != nullptr ? batch.num_dense_rows : batch.num_decode_rows;
  if (num_dense > 0) {
    auto status = DenseRows(layer, q.narrow(0, 0, num_dense), step.page_table, step.context_len, 1, step.max_context,
                            out.narrow(0, 0, num_dense));
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

absl::Status SpotlightAttention::RunBlock(const PrefillBlock& block, at::ScalarType dtype) {
  const auto on_device = at::TensorOptions().dtype(dtype).device(device_);
  const int64_t context = block.past + block.queries;
  const at::Tensor q = at::zeros({block.queries, shape_.num_q_heads, shape_.head_dim}, on_device);
  const at::Tensor pages = at::zeros({PagesFor(context)}, on_device.dtype(at::kInt));
  return PrefillAttention(q, cache_->kv(0), cache_->kv_scale(0), pages, context, softmax_scale_, PrefillBlocks(),
                          at::empty_like(q));
}

absl::Status SpotlightAttention::Encode(int32_t layer, const at::Tensor& qkv, const LayerHash* hash,
                                        const StepTensors& step, const at::Tensor& q, const at::Tensor& planes,
                                        const at::Tensor& plane_unit, uint64_t* start_ns) {
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
  params.start_ns = start_ns;
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
  const bool by_device = HasClocks(*step.batch);
  int32_t begin = step.batch->num_dense_rows, num_runs = 0;
  for (const SparseRun& run : SparseRuns(*step.batch)) {
    kernels::SparseDecodeParams params = SparseParams(layer, hash, q, planes, step, out, begin, run.end - begin, run);
    kernels::SparseDecodeStages stages;
    if (seconds != nullptr) params.stage_seconds = &stages;
    if (by_device) params.stage_seconds = clocks_->Stages(layer, num_runs);
    // Each sequence of a step's decode rows has appended one token, and nothing but the encoder ran since.
    params.overlap_encode = device_.is_cuda() && num_runs == 0;
    if (auto status = kernels::SparseDecode(params); !status.ok()) return status;
    if (seconds != nullptr) {
      seconds->score += stages.score;
      seconds->select += stages.select;
      seconds->attend += stages.attend;
    }
    begin = run.end;
    ++num_runs;
  }
  return absl::OkStatus();
}

at::Tensor SpotlightAttention::CopyClocks(const Batch& batch) const {
  if (!HasClocks(batch)) return {};
  return clocks_->CopyOut(static_cast<int32_t>(SparseRuns(batch).size()));
}

void SpotlightAttention::AwaitQuality(const Batch& batch) {
  if (probe_ != nullptr) probe_->Await(batch);
}

void SpotlightAttention::KeepRow(int32_t layer, int32_t row, const LayerHash& hash) {
  if (probe_ != nullptr) probe_->Keep(kept_q_[layer][row], KeptPlanes(layer, row + 1, hash)[row]);
}

absl::StatusOr<std::unique_ptr<PendingQuality>> SpotlightAttention::MeasureQuality(const Batch& batch,
                                                                                   const LayerHash& hash) {
  if (probe_ == nullptr || !batch.quality.has_value()) return nullptr;
  const QualityTarget& target = *batch.quality;
  const std::vector<SparseRun> runs = SparseRuns(batch);
  const auto run = std::find_if(runs.begin(), runs.end(), [&](const SparseRun& r) { return target.row < r.end; });
  const StepTensors row = probe_->RowOf(batch, target.row);
  const at::Tensor planes = probe_->planes(hash.weights.num_planes, hash.weights.hash_words);
  return probe_->Measure(SparseParams(target.layer, hash, probe_->q(), planes, row, probe_->out(), 0, 1, *run), target);
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
  if (device_.is_cuda() && !cache_->kv_scale(layer).defined()) {
    return PrefillOnGpu(layer, chunk_q, pages, step.token_context.narrow(0, begin, count), context, chunk_out);
  }
  if (kernels::PrefillAttentionSupported(ExecutionOn(device_), ToKernelDType(q.scalar_type()), shape_.head_dim)) {
    return PrefillInPlace(layer, chunk_q, pages, context, chunk_out);
  }
  return PrefillAttention(chunk_q, cache_->kv(layer), cache_->kv_scale(layer), pages.view({-1}), context,
                          softmax_scale_, PrefillBlocks(), chunk_out);
}

absl::Status SpotlightAttention::PrefillOnGpu(int32_t layer, const at::Tensor& q, const at::Tensor& pages,
                                              const at::Tensor& token_context, int32_t context, const at::Tensor& out) {
  const PrefillBlocks blocks;
  const int64_t count = q.size(0), past = context - count;
  for (int64_t begin = 0, tokens = count; begin < count; begin += tokens) {
    const int64_t left = count - begin, beyond = (past + begin) % blocks.unit;
    const bool whole = beyond == 0 && left >= blocks.unit;
    if (whole) {
      tokens = left / blocks.unit * blocks.unit;
    } else if (count >= blocks.unit) {
      tokens = std::min(left, blocks.unit - beyond);
    }
    const at::Tensor part_q = q.narrow(0, begin, tokens), part_out = out.narrow(0, begin, tokens);
    auto status = whole ? PrefillAttention(part_q, cache_->kv(layer), /*kv_scale=*/at::Tensor(), pages.view({-1}),
                                           past + begin + tokens, softmax_scale_, blocks, part_out)
                        : ShortChunks(layer, part_q, pages, token_context.narrow(0, begin, tokens), part_out);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status SpotlightAttention::ShortChunks(int32_t layer, const at::Tensor& q, const at::Tensor& pages,
                                             const at::Tensor& token_context, const at::Tensor& out) {
  for (int64_t begin = 0; begin < q.size(0); begin += kernels::kMaxChunkQueries) {
    const int64_t count = std::min<int64_t>(kernels::kMaxChunkQueries, q.size(0) - begin);
    auto status = ShortChunk(layer, q.narrow(0, begin, count), pages, token_context.narrow(0, begin, count),
                             out.narrow(0, begin, count));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
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
