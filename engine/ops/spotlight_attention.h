// Spotlight attention over the paged cache: the order of the kernels in one layer of one step.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "engine/kv_cache.h"
#include "engine/model_runner.h"
#include "engine/ops/attention.h"
#include "engine/ops/prefill_blocks.h"
#include "engine/ops/quality_probe.h"
#include "engine/ops/retrieval_clocks.h"
#include "kernels/layout.h"
#include "kernels/sparse_decode.h"

namespace spotlight::engine {

struct AttentionShape {
  int32_t num_q_heads = 0, num_kv_heads = 0, head_dim = 0;
};

struct AttentionOptions {
  int32_t sink_tokens = kernels::kSinkTokens, recent_tokens = kernels::kRecentTokens;
  bool prefilter = false;
  bool measure_quality = false;  // hold the memory for Batch::quality, which is else not measured
  // Of the model, where steps are replayed from graphs: each layer's queries are kept for Batch::quality. Else 0.
  int32_t num_graph_layers = 0;
  int32_t max_decode_rows = 1;
  int32_t max_chunk_tokens = 1;  // prompt tokens of a step
  int32_t max_context = 1;       // tokens of a sequence
};

// Engine thread only. All work goes to the current stream of `device`.
class SpotlightAttention : public Attention {
 public:
  // What attention allocates on a GPU beside the cache, in a model of `num_layers`: workspaces, prefill's gathered keys
  // and partial results, retrieval's clocks, and what is kept and needed for Batch::quality. 0 on the CPU, where
  // scratch is small.
  static int64_t ScratchBytes(const AttentionShape& shape, const AttentionOptions& options, int32_t num_layers,
                              at::ScalarType dtype, at::Device device);

  // inv_freq [D / 2] float. `cache` outlives this. RESOURCE_EXHAUSTED when the workspace does not fit.
  static absl::StatusOr<SpotlightAttention> Create(const AttentionShape& shape, const AttentionOptions& options,
                                                   const std::vector<float>& inv_freq, float rope_scale, KvCache* cache,
                                                   at::ScalarType dtype, at::Device device);

  absl::StatusOr<at::Tensor> Forward(int32_t layer, const at::Tensor& qkv, const LayerHash* hash,
                                     const StepTensors& step, RetrievalSeconds* seconds) override;

  absl::Status Append(int32_t layer, const at::Tensor& qkv, const LayerHash* hash, const StepTensors& step) override;

  // In place of Forward: keys, values and codes drawn at random, appended to the step's pages. For measuring.
  absl::Status AppendRandom(int32_t layer, const LayerHash* hash, const StepTensors& step, at::ScalarType dtype);

  // On a GPU in half precision: attends to a block as the chunks of prompts do, all keys from page 0, and drops what
  // comes of it. What libraries set up for its shape is there for later steps of this thread.
  absl::Status RunBlock(const PrefillBlock& block, at::ScalarType dtype);

  // On a GPU Forward's `seconds` stay as they are: a step that just decodes leaves its clocks here. Enqueues their copy
  // to the host (RetrievalClocks::SecondsOf); undefined where the step has none.
  at::Tensor CopyClocks(const Batch& batch) const;

  // Before a step that may write to pages which a measurement still reads; see QualityProbe::Await.
  void AwaitQuality(const Batch& batch);
  // After a replayed step, in which Forward did not see Batch::quality: keeps what row `row` of the graph had.
  void KeepRow(int32_t layer, int32_t row, const LayerHash& hash);
  // After the step: begins to measure what Batch::quality asks for; `hash` is the target layer's. Null: nothing.
  absl::StatusOr<std::unique_ptr<PendingQuality>> MeasureQuality(const Batch& batch, const LayerHash& hash);

 private:
  SpotlightAttention() = default;
  absl::Status Encode(int32_t layer, const at::Tensor& qkv, const LayerHash* hash, const StepTensors& step,
                      const at::Tensor& q, const at::Tensor& planes, const at::Tensor& plane_unit,
                      uint64_t* start_ns = nullptr);
  // Whether the device's clocks tell what the step's retrieval took. Encoding a prompt's chunk is prefill.
  bool HasClocks(const Batch& batch) const;
  // [tokens, Hkv, J, W] of what the layer keeps for measurements.
  at::Tensor KeptPlanes(int32_t layer, int32_t tokens, const LayerHash& hash) const;
  // What every attention kernel is told: device, shapes, the layer's pages, queries and output.
  template <class Params>
  Params ParamsFor(int32_t layer, const at::Tensor& q, const at::Tensor& out) const;
  absl::Status DenseRows(int32_t layer, const at::Tensor& q, const at::Tensor& page_table,
                         const at::Tensor& context_len, int32_t rows_per_table, int32_t max_context,
                         const at::Tensor& out);
  // Decode rows [begin, begin + count), which retrieve, of one run.
  kernels::SparseDecodeParams SparseParams(int32_t layer, const LayerHash& hash, const at::Tensor& q,
                                           const at::Tensor& planes, const StepTensors& step, const at::Tensor& out,
                                           int32_t begin, int32_t count, const SparseRun& run) const;
  absl::Status SparseRows(int32_t layer, const LayerHash& hash, const at::Tensor& q, const at::Tensor& planes,
                          const StepTensors& step, const at::Tensor& out, RetrievalSeconds* seconds);
  // The step's sparse rows; one run where the batch names none.
  std::vector<SparseRun> SparseRuns(const Batch& batch) const;
  // One prompt chunk: its tokens on everything before them and, causally, on themselves.
  absl::Status PrefillRow(int32_t layer, int32_t row, const at::Tensor& q, const StepTensors& step,
                          const at::Tensor& out);
  // The same on a GPU in half precision, of a cache that is not e4m3: the blocks that a library is best at from
  // gathered keys, what is less than one in place. A chunk of less than a block is not cut at blocks' ends, so its
  // kernels do not depend on where it begins.
  absl::Status PrefillOnGpu(int32_t layer, const at::Tensor& q, const at::Tensor& pages,
                            const at::Tensor& token_context, int32_t context, const at::Tensor& out);
  // In place, kMaxChunkQueries tokens at a time.
  absl::Status ShortChunks(int32_t layer, const at::Tensor& q, const at::Tensor& pages, const at::Tensor& token_context,
                           const at::Tensor& out);
  // So many or fewer; lengths are read on the device, so the step may be a graph.
  absl::Status ShortChunk(int32_t layer, const at::Tensor& q, const at::Tensor& pages, const at::Tensor& token_context,
                          const at::Tensor& out);
  // The same through the CPU's own kernel, where it has one.
  absl::Status PrefillInPlace(int32_t layer, const at::Tensor& q, const at::Tensor& pages, int32_t context,
                              const at::Tensor& out);

  AttentionShape shape_;
  AttentionOptions options_;
  float rope_scale_ = 1.0f;
  float softmax_scale_ = 0;
  KvCache* cache_ = nullptr;
  at::Device device_ = at::kCPU;
  at::Tensor inv_freq_;
  at::Tensor sparse_workspace_, dense_workspace_, chunk_workspace_;
  std::unique_ptr<RetrievalClocks> clocks_;  // on a GPU
  std::unique_ptr<QualityProbe> probe_;      // null: nothing is judged
  // Of decode rows, by layer, for measurements after replayed steps; undefined where there are none.
  at::Tensor kept_q_;       // [layers, max_decode_rows, Hq, D]
  at::Tensor kept_planes_;  // [layers, max_decode_rows * Hkv * kMaxPlanes * kMaxHashWords] int32
};

}  // namespace spotlight::engine
