// Decode steps as CUDA graphs: the host enqueues one graph in place of some hundred kernels.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAGraph.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/batch.h"
#include "engine/step_inputs.h"
#include "kernels/sample.h"

namespace spotlight::engine {

// Runs a step's kernels on the current stream, its sampling included.
using StepForward = std::function<absl::Status(const StepTensors& step)>;

// Engine thread only; every call under the runner's stream, which is not the default one.
//
// A graph is made for numbers of dense and of sparse rows, each rounded up to a bucket (1, 2, 4, 8, then steps of about
// an eighth), and for rows of any length: lengths are read on the device, and the rows that fill a bucket are padding
// (context_len 0, no slot). A padded row computes what it would in a step of its own (kernels/sparse_decode.h).
//
// Where rows retrieve, a graph for any length costs short ones: more launches, and less room for what overlaps. So
// those have a graph for rows of up to kShortContext tokens, and one for longer ones. Numbers do not depend on it.
class DecodeGraphs {
 public:
  // What all of them take on the device at most. `step_bytes`: what a decode step of max_rows rows allocates.
  static int64_t Bytes(int32_t num_layers, int64_t step_bytes);

  // `inputs` outlives this and feeds no one else meanwhile.
  DecodeGraphs(StepInputs* inputs, int32_t max_rows, int32_t max_context, StepForward forward);

  static constexpr int32_t kShortContext = 32 << 10;

  // Captures what a server meets most: all rows dense, or, with a hash, all sparse, in every bucket.
  absl::Status CaptureUsual(bool has_hash);

  // Whether a graph is there for this step. It must be plain decode, and its padded rows no more than max_rows; the
  // first step of a kind captures (tens of milliseconds), as long as there is room for another graph. Where a capture
  // failed, for want of memory, the answer stays false: such steps are enqueued kernel by kernel.
  bool Prepare(const Batch& batch);

  // Whether Prepare would capture.
  bool Captures(const Batch& batch) const;
  // Where the graph has the batch's row.
  int32_t RowOf(const Batch& batch, int32_t row) const;

  // Prepare(batch).
  absl::Status Run(const Batch& batch, const std::vector<kernels::SampleRowParams>& sample_rows);

  // The smallest bucket that holds `rows`; 0 for 0. Never above max_rows.
  static int32_t Bucket(int32_t rows, int32_t max_rows);

  using Key = std::pair<int32_t, int32_t>;  // dense rows, sparse rows
  // The graph for so many rows, max_rows at most together. Padding takes no step beyond max_rows, nor beyond the rows
  // up to which matrices are multiplied otherwise (kernels/small_linear.h), which would change its rows' numbers.
  static Key KeyFor(int32_t dense_rows, int32_t sparse_rows, int32_t max_rows);

 private:
  Key KeyOf(const Batch& batch) const {
    return KeyFor(batch.num_dense_rows, batch.num_decode_rows - batch.num_dense_rows, max_rows_);
  }
  using ContextKey = std::pair<int32_t, Key>;  // no row is longer
  ContextKey ContextKeyOf(const Batch& batch) const;
  absl::Status Capture(const ContextKey& key);

  StepInputs* const inputs_;
  const int32_t max_rows_, max_context_;
  const StepForward forward_;
  const at::cuda::MempoolId_t pool_;  // graphs run one at a time, so they share their memory
  std::map<ContextKey, std::unique_ptr<at::cuda::CUDAGraph>> graphs_;
  std::set<ContextKey> failed_;
  Batch padded_;
  std::vector<kernels::SampleRowParams> padded_rows_;
};

// Whether all rows decode and yield a token each, nothing is scored, and no row has sink and recent tokens of its own.
bool IsPlainDecode(const Batch& batch);

// `batch` with dense_rows dense and sparse_rows sparse decode rows; those that are none of batch's have context_len 0.
// Every row is a sample; row r of batch's dense ones stays r, and its sparse ones begin at dense_rows.
void PadDecodeBatch(const Batch& batch, int32_t dense_rows, int32_t sparse_rows, Batch* padded);
// The rows' parameters in the same places; those of padding have no output.
void PadSampleRows(const std::vector<kernels::SampleRowParams>& rows, const Batch& batch, const Batch& padded,
                   std::vector<kernels::SampleRowParams>* padded_rows);

}  // namespace spotlight::engine
