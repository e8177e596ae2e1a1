// Decode steps as CUDA graphs: the host enqueues one graph in place of some hundred kernels.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAGraph.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "engine/batch.h"
#include "engine/step_inputs.h"
#include "kernels/sample.h"

namespace spotlight::engine {

// What a graph is made for.
struct GraphKey {
  int32_t dense_rows = 0, sparse_rows = 0;
  int32_t chunk_tokens = 0;  // 0: no chunk
  int32_t max_context = 0;   // no row is longer

  int32_t decode_rows() const { return dense_rows + sparse_rows; }
  friend bool operator<(const GraphKey& a, const GraphKey& b) {
    return std::tie(a.dense_rows, a.sparse_rows, a.chunk_tokens, a.max_context) <
           std::tie(b.dense_rows, b.sparse_rows, b.chunk_tokens, b.max_context);
  }
  friend bool operator==(const GraphKey& a, const GraphKey& b) { return !(a < b) && !(b < a); }
};

// Runs a step's kernels on the current stream, its sampling included.
using StepForward = std::function<absl::Status(const StepTensors& step)>;

// Engine thread only; every call under the runner's stream, which is not the default one.
//
// A graph is made for numbers of dense and of sparse rows, each rounded up to a bucket (1, 2, 4, 8, then steps of about
// an eighth), and for rows of any length: lengths are read on the device, and the rows that fill a bucket are padding
// (context_len 0, no slot). A padded row computes what it would in a step of its own (kernels/sparse_decode.h).
//
// Beside its decode rows, or alone, a step may hold one short chunk of a prompt (short_chunk.h), whose tokens are
// padded likewise (position -1, no slot). There rows have fewer buckets, 8, 16, 32, ...: such steps take more tokens
// than that anyway. The chunk's last token is always a sample; one that does not end its prompt has no output.
//
// Where rows retrieve, a graph for any length costs short ones: more launches, and less room for what overlaps. So
// those have a graph for rows of up to kShortContext tokens, and one for longer ones. Numbers do not depend on it.
class DecodeGraphs {
 public:
  // What all of them take on the device at most. `step_bytes`: what a decode step of max_rows rows allocates.
  static int64_t Bytes(int32_t num_layers, int64_t step_bytes);

  // `inputs` outlives this and feeds no one else meanwhile. `capacity`: of a step, padding included. `short_chunks`:
  // their lengths (short_chunk.h); empty: a step with a chunk has no graph, nor padding.
  DecodeGraphs(StepInputs* inputs, const StepCapacity& capacity, std::vector<int32_t> short_chunks, int32_t max_context,
               StepForward forward);

  static constexpr int32_t kShortContext = 32 << 10;

  // Captures what a server meets most: all rows dense, or, with a hash, all sparse, in every bucket, alone and beside
  // each length of a short chunk; and such chunks alone. Of many, so many that others find room.
  absl::Status CaptureUsual(bool has_hash);

  // Whether a graph is there for this step, which is about to run. It must fit one, and its padded rows and tokens the
  // capacity. The third step of a kind captures (tens of milliseconds, which kinds that are rare never take), as long
  // as there is room for another graph, and `capture` is set to how that went. Where it failed, for want of memory, the
  // answer stays false: such steps are enqueued kernel by kernel.
  bool Prepare(const Batch& batch, absl::optional<absl::Status>* capture);

  // Whether there is no graph for the batch's kind, and a later step of it may capture one.
  bool Awaits(const Batch& batch) const;
  // Whether Prepare would capture.
  bool Captures(const Batch& batch) const;
  // Where the graph has the batch's row.
  int32_t RowOf(const Batch& batch, int32_t row) const;

  // Prepare said true.
  absl::Status Run(const Batch& batch, const std::vector<kernels::SampleRowParams>& sample_rows);

  // Whether a step of the batch's kind is padded: it is, too, where it has no graph (yet) or measures quality beside a
  // chunk, so that its numbers do not depend on that.
  bool Pads(const Batch& batch) const;
  // Pads(batch). For such a step: what the graph would read. Good until the next call.
  absl::StatusOr<StepTensors> CopyPadded(const Batch& batch, const std::vector<kernels::SampleRowParams>& sample_rows);

  // The rows that CaptureUsual captures steps without a chunk for: the smallest `most` buckets, descending.
  static std::vector<int32_t> UsualRows(int32_t max_rows, size_t most);

  // The smallest bucket that holds `rows`; 0 for 0. Never above max_rows.
  static int32_t Bucket(int32_t rows, int32_t max_rows);

  // The graph for so many rows of any length, max_rows at most together. Padding takes no step beyond max_rows, nor
  // beyond the rows up to which matrices are multiplied otherwise (kernels/small_linear.h), which would change its
  // rows' numbers.
  static GraphKey KeyFor(int32_t dense_rows, int32_t sparse_rows, int32_t max_rows);
  // The same beside a short chunk of a graph's length, which is one of the step's rows. Rows' padding takes no step
  // beyond `capacity`; the chunk's may, and then no graph serves it.
  static GraphKey KeyBesideChunk(int32_t dense_rows, int32_t sparse_rows, int32_t chunk_tokens,
                                 const StepCapacity& capacity);

 private:
  GraphKey KeyOf(const Batch& batch) const;
  int32_t ContextOf(const Batch& batch) const;
  bool MayReplay(const Batch& batch) const;
  bool FitsCapacity(const GraphKey& key) const;
  absl::Status CaptureRows(int32_t rows, int32_t chunk_tokens, bool has_hash);
  absl::Status Capture(const GraphKey& key);
  absl::Status TryCapture(const GraphKey& key);  // LibTorch's exceptions made a status

  StepInputs* const inputs_;
  const StepCapacity capacity_;
  const std::vector<int32_t> short_chunks_;
  const int32_t max_context_;
  const StepForward forward_;
  at::cuda::MempoolId_t pool_ = {0, 0};  // graphs run one at a time, so they share their memory
  std::map<GraphKey, std::unique_ptr<at::cuda::CUDAGraph>> graphs_;
  std::set<GraphKey> failed_;
  std::map<GraphKey, int32_t> num_without_;  // steps of a kind that has no graph yet
  Batch padded_;
  std::vector<kernels::SampleRowParams> padded_rows_;
};

// Whether rows decode and yield a token each, but for one at most, which is a short chunk, nothing is scored, and no
// row has sink and recent tokens of its own.
bool FitsGraph(const Batch& batch);

// `batch` with as many dense and sparse decode rows, and tokens of a chunk behind them, as `key` says; rows that are
// none of batch's have context_len 0. Every row is a sample; row r of batch's dense ones stays r, and its sparse ones
// begin at key.dense_rows.
void PadBatch(const Batch& batch, const GraphKey& key, Batch* padded);
// The samples' parameters in the places of their rows; those of others have no output.
void PadSampleRows(const std::vector<kernels::SampleRowParams>& rows, const Batch& batch, const Batch& padded,
                   std::vector<kernels::SampleRowParams>* padded_rows);

}  // namespace spotlight::engine
