#include "engine/decode_graphs.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "kernels/small_linear.h"

namespace spotlight::engine {
namespace {

constexpr size_t kMaxGraphs = 128;
constexpr int64_t kPaddingSlot = -1;
// Of a graph, what the driver keeps on the device for it.
constexpr int64_t kLayerBytes = int64_t{64} << 10;

// Where row `row` of `batch` is in a padded one.
int32_t PaddedRow(const Batch& batch, int32_t dense_rows, int32_t row) {
  return row < batch.num_dense_rows ? row : dense_rows + row - batch.num_dense_rows;
}

}  // namespace

bool IsPlainDecode(const Batch& batch) {
  if (batch.num_decode_rows == 0 || batch.num_rows != batch.num_decode_rows) return false;
  if (!batch.scored.empty()) return false;
  // Decode rows are in the tokens' order, and so are samples: as many are one each.
  return batch.sparse_runs.empty() && batch.samples.size() == static_cast<size_t>(batch.num_rows);
}

void PadDecodeBatch(const Batch& batch, int32_t dense_rows, int32_t sparse_rows, Batch* padded) {
  const int32_t rows = dense_rows + sparse_rows;
  padded->num_dense_rows = dense_rows;
  padded->num_decode_rows = padded->num_rows = rows;
  padded->token_ids.assign(rows, 0);
  padded->positions.assign(rows, 0);
  padded->slots.assign(rows, kPaddingSlot);
  padded->context_len.assign(rows, 0);
  padded->num_select.assign(rows, 0);
  padded->max_pages = std::max(batch.max_pages, 1);
  padded->page_table.assign(static_cast<size_t>(rows) * padded->max_pages, 0);
  padded->query_begin.resize(rows + 1);
  padded->samples.resize(rows);
  for (int32_t row = 0; row <= rows; ++row) padded->query_begin[row] = row;
  for (int32_t row = 0; row < rows; ++row) padded->samples[row].token_index = row;
  for (int32_t row = 0; row < batch.num_decode_rows; ++row) {
    const int32_t to = PaddedRow(batch, dense_rows, row);
    padded->token_ids[to] = batch.token_ids[row];
    padded->positions[to] = batch.positions[row];
    padded->slots[to] = batch.slots[row];
    padded->context_len[to] = batch.context_len[row];
    padded->num_select[to] = batch.num_select[row];
    std::copy_n(batch.page_table.begin() + static_cast<int64_t>(row) * batch.max_pages, batch.max_pages,
                padded->page_table.begin() + static_cast<int64_t>(to) * padded->max_pages);
  }
}

void PadSampleRows(const std::vector<kernels::SampleRowParams>& rows, const Batch& batch, const Batch& padded,
                   std::vector<kernels::SampleRowParams>* padded_rows) {
  padded_rows->assign(padded.num_rows, {});
  for (size_t row = 0; row < rows.size(); ++row) {
    (*padded_rows)[PaddedRow(batch, padded.num_dense_rows, static_cast<int32_t>(row))] = rows[row];
  }
}

int32_t DecodeGraphs::Bucket(int32_t rows, int32_t max_rows) {
  if (rows == 0) return 0;
  int32_t bucket = 1;
  while (bucket < rows) bucket += bucket < 8 ? bucket : std::max(8, bucket / 64 * 8);
  return std::min(bucket, max_rows);
}

int64_t DecodeGraphs::Bytes(int32_t num_layers, int64_t step_bytes) {
  return static_cast<int64_t>(kMaxGraphs) * num_layers * kLayerBytes + step_bytes;
}

DecodeGraphs::DecodeGraphs(StepInputs* inputs, int32_t max_rows, int32_t max_context, StepForward forward)
    : inputs_(inputs),
      max_rows_(max_rows),
      max_context_(max_context),
      forward_(std::move(forward)),
      pool_(at::cuda::graph_pool_handle()) {}

absl::Status DecodeGraphs::CaptureUsual(bool has_hash) {
  // The largest first: the smaller ones fit into its memory.
  for (int32_t rows = max_rows_; rows > 0;) {
    if (auto status = Capture({max_context_, {rows, 0}}); !status.ok()) return status;
    if (has_hash) {
      if (auto status = Capture({max_context_, {0, rows}}); !status.ok()) return status;
      if (max_context_ > kShortContext) {
        if (auto status = Capture({kShortContext, {0, rows}}); !status.ok()) return status;
      }
    }
    int32_t smaller = rows - 1;
    while (smaller > 0 && Bucket(smaller, max_rows_) == rows) --smaller;
    rows = smaller;
  }
  return absl::OkStatus();
}

DecodeGraphs::Key DecodeGraphs::KeyFor(int32_t dense_rows, int32_t sparse_rows, int32_t max_rows) {
  Key key = {Bucket(dense_rows, max_rows), Bucket(sparse_rows, max_rows)};
  for (const int32_t limit : {kernels::kMaxSmallLinearRows, kernels::kMaxSmallLinearFp8Rows, max_rows}) {
    if (dense_rows + sparse_rows > limit || key.first + key.second <= limit) continue;
    if (key.first + sparse_rows > limit) key.first = dense_rows;
    key.second = limit - key.first;
  }
  return key;
}

DecodeGraphs::ContextKey DecodeGraphs::ContextKeyOf(const Batch& batch) const {
  const int32_t longest = *std::max_element(batch.context_len.begin(), batch.context_len.end());
  const bool is_short = batch.num_dense_rows < batch.num_decode_rows && longest <= kShortContext;
  return {is_short ? std::min(kShortContext, max_context_) : max_context_, KeyOf(batch)};
}

bool DecodeGraphs::Captures(const Batch& batch) const {
  if (!IsPlainDecode(batch) || graphs_.size() >= kMaxGraphs) return false;
  const ContextKey key = ContextKeyOf(batch);
  return graphs_.count(key) == 0 && failed_.count(key) == 0;
}

int32_t DecodeGraphs::RowOf(const Batch& batch, int32_t row) const {
  return PaddedRow(batch, KeyOf(batch).first, row);
}

bool DecodeGraphs::Prepare(const Batch& batch) {
  if (!IsPlainDecode(batch)) return false;
  const ContextKey key = ContextKeyOf(batch);
  if (!Captures(batch)) return graphs_.count(key) > 0;
  try {
    c10::cuda::CUDACachingAllocator::emptyCache();  // nothing cached is given back while a capture is under way
    if (Capture(key).ok()) return true;
  } catch (const c10::Error&) {
    cudaGetLastError();  // an allocation's failure would be found by the next launch
  }
  // What was enqueued may still read the inputs.
  if (cudaStreamSynchronize(c10::cuda::getCurrentCUDAStream()) != cudaSuccess) cudaGetLastError();
  failed_.insert(key);
  return false;
}

absl::Status DecodeGraphs::Capture(const ContextKey& key) {
  const auto& [max_context, rows] = key;
  // Padding rows alone: nothing is written to the cache.
  PadDecodeBatch(Batch(), rows.first, rows.second, &padded_);
  PadSampleRows({}, Batch(), padded_, &padded_rows_);
  auto step = inputs_->Copy(padded_, padded_rows_);
  if (!step.ok()) return step.status();
  step->max_context = max_context;
  // Once outside of a capture: what libraries set up at their first call of a shape is none of the step's work.
  if (auto warm = forward_(*step); !warm.ok()) return warm;

  c10::cuda::getCurrentCUDAStream().synchronize();  // later Copies reuse what this one reads

  auto graph = std::make_unique<at::cuda::CUDAGraph>();
  graph->capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
  absl::Status status;
  try {
    status = forward_(*step);
  } catch (...) {
    // The stream must not stay in capture, whatever the capture is worth.
    try {
      graph->capture_end();
    } catch (const c10::Error&) {
    }
    throw;
  }
  graph->capture_end();
  if (!status.ok()) return status;
  graphs_[key] = std::move(graph);
  return absl::OkStatus();
}

absl::Status DecodeGraphs::Run(const Batch& batch, const std::vector<kernels::SampleRowParams>& sample_rows) {
  const ContextKey key = ContextKeyOf(batch);
  PadDecodeBatch(batch, key.second.first, key.second.second, &padded_);
  PadSampleRows(sample_rows, batch, padded_, &padded_rows_);
  if (auto step = inputs_->Copy(padded_, padded_rows_); !step.ok()) return step.status();
  graphs_.at(key)->replay();
  return absl::OkStatus();
}

}  // namespace spotlight::engine
