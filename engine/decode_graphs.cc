#include "engine/decode_graphs.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <utility>

#include "engine/short_chunk.h"
#include "engine/torch_status.h"
#include "kernels/small_linear.h"

namespace spotlight::engine {
namespace {

constexpr size_t kMaxGraphs = 192;
// Of those captured at start beside chunks, the longest first: others must find room.
constexpr size_t kMaxUsualChunkGraphs = 64;
// And of all that are captured at start, the fewest rows first: these are met most, and gain most.
constexpr size_t kMaxUsualGraphs = 160;
// Steps of a kind that are enqueued kernel by kernel before one captures.
constexpr int32_t kStepsBeforeCapture = 2;
constexpr int64_t kPaddingSlot = -1;
// Of a chunk: such a token attends to nothing.
constexpr int32_t kPaddingPosition = -1;
// Of a graph, what the driver keeps on the device for it.
constexpr int64_t kLayerBytes = int64_t{64} << 10;

// Where row `row` of `batch` is in a padded one: so is its first token.
int32_t PaddedRow(const Batch& batch, const Batch& padded, int32_t row) {
  if (row < batch.num_dense_rows) return row;
  if (row < batch.num_decode_rows) return padded.num_dense_rows + row - batch.num_dense_rows;
  return padded.num_decode_rows + row - batch.num_decode_rows;
}

// Of rows beside a chunk.
constexpr int32_t kSmallestCoarseBucket = 8;
int32_t CoarseBucket(int32_t rows) {
  if (rows == 0) return 0;
  int32_t bucket = kSmallestCoarseBucket;
  while (bucket < rows) bucket *= 2;
  return bucket;
}

// The chunk is a row, too.
int32_t MostBesideChunk(int32_t chunk_tokens, const StepCapacity& capacity) {
  return std::min(capacity.max_rows - 1, capacity.max_tokens - chunk_tokens);
}

}  // namespace

bool FitsGraph(const Batch& batch) {
  const int32_t decoding = batch.num_decode_rows, chunks = batch.num_rows - decoding;
  if (batch.num_rows == 0 || chunks > 1 || batch.num_tokens() - decoding > kMaxShortChunk) return false;
  if (!batch.scored.empty()) return false;
  // Decode rows are in the tokens' order, and so are samples: as many are one each, and one more is the chunk's.
  const auto samples = static_cast<int32_t>(batch.samples.size());
  return batch.sparse_runs.empty() && samples >= decoding && samples <= batch.num_rows;
}

void PadBatch(const Batch& batch, const GraphKey& key, Batch* padded) {
  const int32_t decoding = key.decode_rows(), chunks = key.chunk_tokens > 0 ? 1 : 0;
  const int32_t rows = decoding + chunks, tokens = decoding + key.chunk_tokens;
  padded->num_dense_rows = key.dense_rows;
  padded->num_decode_rows = decoding;
  padded->num_rows = rows;
  padded->token_ids.assign(tokens, 0);
  padded->positions.assign(decoding, 0);
  padded->positions.resize(tokens, kPaddingPosition);
  padded->slots.assign(tokens, kPaddingSlot);
  padded->context_len.assign(rows, 0);
  padded->num_select.assign(rows, 0);
  padded->quality = batch.quality;
  if (batch.quality.has_value()) padded->quality->row = PaddedRow(batch, *padded, batch.quality->row);
  padded->max_pages = std::max(batch.max_pages, 1);
  padded->page_table.assign(static_cast<size_t>(rows) * padded->max_pages, 0);
  padded->query_begin.resize(rows + 1);
  padded->samples.resize(rows);
  for (int32_t row = 0; row < rows; ++row) padded->query_begin[row] = row;
  padded->query_begin[rows] = tokens;
  for (int32_t row = 0; row < rows; ++row) padded->samples[row].token_index = row;
  for (int32_t row = 0; row < batch.num_rows; ++row) {
    const int32_t to = PaddedRow(batch, *padded, row);
    const int32_t begin = batch.query_begin[row], count = batch.query_begin[row + 1] - begin;
    std::copy_n(batch.token_ids.begin() + begin, count, padded->token_ids.begin() + to);
    std::copy_n(batch.positions.begin() + begin, count, padded->positions.begin() + to);
    std::copy_n(batch.slots.begin() + begin, count, padded->slots.begin() + to);
    padded->context_len[to] = batch.context_len[row];
    padded->num_select[to] = batch.num_select[row];
    padded->samples[to].token_index = to + count - 1;
    std::copy_n(batch.page_table.begin() + static_cast<int64_t>(row) * batch.max_pages, batch.max_pages,
                padded->page_table.begin() + static_cast<int64_t>(to) * padded->max_pages);
  }
}

void PadSampleRows(const std::vector<kernels::SampleRowParams>& rows, const Batch& batch, const Batch& padded,
                   std::vector<kernels::SampleRowParams>* padded_rows) {
  padded_rows->assign(padded.num_rows, {});
  for (size_t row = 0; row < rows.size(); ++row) {
    (*padded_rows)[PaddedRow(batch, padded, static_cast<int32_t>(row))] = rows[row];
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

DecodeGraphs::DecodeGraphs(StepInputs* inputs, const StepCapacity& capacity, std::vector<int32_t> short_chunks,
                           int32_t max_context, StepForward forward)
    : inputs_(inputs),
      capacity_(capacity),
      short_chunks_(std::move(short_chunks)),
      max_context_(max_context),
      forward_(std::move(forward)) {}

absl::Status DecodeGraphs::CaptureUsual(bool has_hash) {
  // The largest first: the smaller ones fit into its memory.
  const auto has_room = [this] { return graphs_.size() < kMaxUsualChunkGraphs; };
  for (auto length = short_chunks_.rbegin(); length != short_chunks_.rend() && has_room(); ++length) {
    for (int32_t rows = MostBesideChunk(*length, capacity_); rows > 0 && has_room();) {
      if (auto status = CaptureRows(rows, *length, has_hash); !status.ok()) return status;
      int32_t smaller = CoarseBucket(rows) / 2;
      if (smaller < kSmallestCoarseBucket) smaller = 0;
      rows = smaller;
    }
    if (const GraphKey alone = {0, 0, *length, max_context_}; FitsCapacity(alone)) {
      if (auto status = Capture(alone); !status.ok()) return status;
    }
  }
  const size_t graphs_of_rows = !has_hash ? 1 : max_context_ > kShortContext ? 3 : 2;
  const size_t room = graphs_.size() < kMaxUsualGraphs ? kMaxUsualGraphs - graphs_.size() : 0;
  for (const int32_t rows : UsualRows(capacity_.max_rows, room / graphs_of_rows)) {
    if (auto status = CaptureRows(rows, 0, has_hash); !status.ok()) return status;
  }
  return absl::OkStatus();
}

std::vector<int32_t> DecodeGraphs::UsualRows(int32_t max_rows, size_t most) {
  std::vector<int32_t> buckets;
  while (buckets.size() < most && (buckets.empty() || buckets.back() < max_rows)) {
    buckets.push_back(Bucket(buckets.empty() ? 1 : buckets.back() + 1, max_rows));
  }
  std::reverse(buckets.begin(), buckets.end());
  return buckets;
}

absl::Status DecodeGraphs::CaptureRows(int32_t rows, int32_t chunk_tokens, bool has_hash) {
  const bool shorter = chunk_tokens == 0 && max_context_ > kShortContext;
  for (const GraphKey& key :
       {GraphKey{rows, 0, chunk_tokens, max_context_}, GraphKey{0, rows, chunk_tokens, max_context_},
        GraphKey{0, shorter ? rows : 0, 0, kShortContext}}) {
    if (key.decode_rows() == 0 || (key.sparse_rows > 0 && !has_hash) || !FitsCapacity(key)) continue;
    if (auto status = Capture(key); !status.ok()) return status;
  }
  return absl::OkStatus();
}

GraphKey DecodeGraphs::KeyFor(int32_t dense_rows, int32_t sparse_rows, int32_t max_rows) {
  GraphKey key = {Bucket(dense_rows, max_rows), Bucket(sparse_rows, max_rows)};
  for (const int32_t limit : {kernels::kMaxSmallLinearRows, kernels::kMaxSmallLinearFp8Rows, max_rows}) {
    if (dense_rows + sparse_rows > limit || key.decode_rows() <= limit) continue;
    if (key.dense_rows + sparse_rows > limit) key.dense_rows = dense_rows;
    key.sparse_rows = limit - key.dense_rows;
  }
  return key;
}

GraphKey DecodeGraphs::KeyBesideChunk(int32_t dense_rows, int32_t sparse_rows, int32_t chunk_tokens,
                                      const StepCapacity& capacity) {
  const int32_t most = MostBesideChunk(chunk_tokens, capacity);
  GraphKey key;
  key.dense_rows = std::max(dense_rows, std::min(CoarseBucket(dense_rows), most - sparse_rows));
  key.sparse_rows = std::max(sparse_rows, std::min(CoarseBucket(sparse_rows), most - key.dense_rows));
  key.chunk_tokens = chunk_tokens;
  return key;
}

GraphKey DecodeGraphs::KeyOf(const Batch& batch) const {
  const int32_t dense = batch.num_dense_rows, sparse = batch.num_decode_rows - dense;
  GraphKey key = KeyFor(dense, sparse, capacity_.max_rows);
  if (batch.num_rows > batch.num_decode_rows) {
    const int32_t chunk_tokens = ShortChunkFor(batch.num_tokens() - batch.num_decode_rows, short_chunks_);
    key = KeyBesideChunk(dense, sparse, chunk_tokens, capacity_);
  }
  key.max_context = ContextOf(batch);
  return key;
}

int32_t DecodeGraphs::ContextOf(const Batch& batch) const {
  const bool plain = batch.num_rows == batch.num_decode_rows, retrieves = batch.num_dense_rows < batch.num_decode_rows;
  if (!plain || !retrieves || max_context_ <= kShortContext) return max_context_;
  const int32_t longest = *std::max_element(batch.context_len.begin(), batch.context_len.end());
  return longest <= kShortContext ? kShortContext : max_context_;
}

bool DecodeGraphs::Awaits(const Batch& batch) const {
  if (!MayReplay(batch) || graphs_.size() >= kMaxGraphs) return false;
  const GraphKey key = KeyOf(batch);
  return graphs_.count(key) == 0 && failed_.count(key) == 0;
}

bool DecodeGraphs::Captures(const Batch& batch) const {
  if (!Awaits(batch)) return false;
  const auto without = num_without_.find(KeyOf(batch));
  return without != num_without_.end() && without->second >= kStepsBeforeCapture;
}

int32_t DecodeGraphs::RowOf(const Batch& batch, int32_t row) const {
  return row < batch.num_dense_rows ? row : KeyOf(batch).dense_rows + row - batch.num_dense_rows;
}

bool DecodeGraphs::FitsCapacity(const GraphKey& key) const {
  return key.decode_rows() + key.chunk_tokens <= capacity_.max_tokens;
}

bool DecodeGraphs::Pads(const Batch& batch) const {
  const bool has_chunk = batch.num_rows > batch.num_decode_rows;
  return FitsGraph(batch) && !(has_chunk && short_chunks_.empty()) && FitsCapacity(KeyOf(batch));
}

// What is measured beside a chunk is kept by the host's call.
bool DecodeGraphs::MayReplay(const Batch& batch) const {
  return Pads(batch) && !(batch.quality.has_value() && batch.num_rows > batch.num_decode_rows);
}

bool DecodeGraphs::Prepare(const Batch& batch, absl::optional<absl::Status>* capture) {
  if (!MayReplay(batch)) return false;
  const GraphKey key = KeyOf(batch);
  if (graphs_.count(key) > 0) return true;
  if (!Captures(batch)) {
    int32_t& num_without = num_without_[key];
    num_without = std::min(num_without + 1, kStepsBeforeCapture);
    return false;
  }
  *capture = TryCapture(key);
  if ((*capture)->ok()) return true;
  // What was enqueued may still read the inputs.
  if (cudaStreamSynchronize(c10::cuda::getCurrentCUDAStream()) != cudaSuccess) cudaGetLastError();
  failed_.insert(key);
  return false;
}

absl::Status DecodeGraphs::TryCapture(const GraphKey& key) {
  try {
    c10::cuda::CUDACachingAllocator::emptyCache();  // nothing cached is given back while a capture is under way
    return Capture(key);
  } catch (const c10::Error& error) {
    cudaGetLastError();  // an allocation's failure would be found by the next launch
    return StatusOf(error, "capture failed");
  }
}

absl::Status DecodeGraphs::Capture(const GraphKey& key) {
  // Padding rows alone: nothing is written to the cache.
  PadBatch(Batch(), key, &padded_);
  PadSampleRows({}, Batch(), padded_, &padded_rows_);
  auto step = inputs_->Copy(padded_, padded_rows_);
  if (!step.ok()) return step.status();
  step->max_context = key.max_context;
  // Once outside of a capture: what libraries set up at their first call of a shape is none of the step's work.
  if (auto warm = forward_(*step); !warm.ok()) return warm;

  c10::cuda::getCurrentCUDAStream().synchronize();  // later Copies reuse what this one reads

  // The allocators have forgotten one that no graph holds: that of a first capture which failed.
  if (graphs_.empty()) pool_ = at::cuda::graph_pool_handle();
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
  if (auto step = CopyPadded(batch, sample_rows); !step.ok()) return step.status();
  graphs_.at(KeyOf(batch))->replay();
  return absl::OkStatus();
}

absl::StatusOr<StepTensors> DecodeGraphs::CopyPadded(const Batch& batch,
                                                     const std::vector<kernels::SampleRowParams>& sample_rows) {
  PadBatch(batch, KeyOf(batch), &padded_);
  PadSampleRows(sample_rows, batch, padded_, &padded_rows_);
  return inputs_->Copy(padded_, padded_rows_);
}

}  // namespace spotlight::engine
