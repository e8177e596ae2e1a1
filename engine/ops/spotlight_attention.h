// Spotlight attention over the paged cache: the order of the kernels in one layer of one step.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/batch.h"
#include "engine/kv_cache.h"
#include "engine/model_runner.h"
#include "kernels/encode_and_append.h"

namespace spotlight::engine {

struct AttentionShape {
  int32_t num_q_heads = 0, num_kv_heads = 0, head_dim = 0;
};

// A layer's hash on the device.
struct LayerHash {
  kernels::HashWeights weights;
  std::vector<at::Tensor> storage;  // what `weights` points into
};

struct AttentionOptions {
  int32_t sink_tokens = kernels::kSinkTokens, recent_tokens = kernels::kRecentTokens;
  bool prefilter = false;
  int32_t max_decode_rows = 1;
  int32_t max_chunk_tokens = 1;  // prompt tokens of a step
  int32_t max_context = 1;       // tokens of a sequence
};

// A step's integers on the device (see Batch for their meaning), and the host's own copy.
struct StepTensors {
  const Batch* batch = nullptr;
  at::Tensor token_ids;      // [T] int32
  at::Tensor positions;      // [T] int32
  at::Tensor slots;          // [T] int64
  at::Tensor page_table;     // [B, max_pages] int32
  at::Tensor context_len;    // [B] int32
  at::Tensor num_select;     // [B] int32
  at::Tensor token_context;  // [T] int32, positions + 1
  int32_t max_context = 0;   // longest of context_len
};

// Engine thread only. All work goes to the current stream of `device`.
class SpotlightAttention {
 public:
  // What steps allocate on a GPU beside the cache: the workspace, and a gathered copy of the longest context in
  // prefill. 0 on the CPU, where scratch is small.
  static int64_t ScratchBytes(const AttentionShape& shape, const AttentionOptions& options, at::ScalarType dtype,
                              at::Device device);

  // inv_freq [D / 2] float. `cache` outlives this. RESOURCE_EXHAUSTED when the workspace does not fit.
  static absl::StatusOr<SpotlightAttention> Create(const AttentionShape& shape, const AttentionOptions& options,
                                                   const std::vector<float>& inv_freq, float rope_scale, KvCache* cache,
                                                   at::ScalarType dtype, at::Device device);

  // qkv [T, (Hq + 2 Hkv) * D], biases added, before RoPE -> [T, Hq * D]. `hash` may be null: a dense layer. `seconds`
  // is not null in a step that measures retrieval.
  absl::StatusOr<at::Tensor> Forward(int32_t layer, const at::Tensor& qkv, const LayerHash* hash,
                                     const StepTensors& step, RetrievalSeconds* seconds);

 private:
  SpotlightAttention() = default;
  absl::Status Encode(int32_t layer, const at::Tensor& qkv, const LayerHash* hash, const StepTensors& step,
                      const at::Tensor& q, const at::Tensor& planes, const at::Tensor& plane_unit);
  // What every attention kernel is told: device, shapes, the layer's pages, queries and output.
  template <class Params>
  Params ParamsFor(int32_t layer, const at::Tensor& q, const at::Tensor& out) const;
  absl::Status DenseRows(int32_t layer, const at::Tensor& q, const at::Tensor& page_table,
                         const at::Tensor& context_len, int32_t rows_per_table, int32_t max_context,
                         const at::Tensor& out);
  absl::Status SparseRows(int32_t layer, const LayerHash& hash, const at::Tensor& q, const at::Tensor& planes,
                          const StepTensors& step, const at::Tensor& out, RetrievalSeconds* seconds);
  // One prompt chunk: its tokens on everything before them and, causally, on themselves.
  absl::Status PrefillRow(int32_t layer, int32_t row, const at::Tensor& q, const StepTensors& step,
                          const at::Tensor& out);
  // The same through the CPU's own kernel, where it has one.
  absl::Status PrefillInPlace(int32_t layer, const at::Tensor& q, const at::Tensor& pages, int32_t context,
                              const at::Tensor& out);
  void Synchronize() const;

  AttentionShape shape_;
  AttentionOptions options_;
  float rope_scale_ = 1.0f;
  float softmax_scale_ = 0;
  KvCache* cache_ = nullptr;
  at::Device device_ = at::kCPU;
  at::Tensor inv_freq_;
  at::Tensor sparse_workspace_, dense_workspace_;
  at::Tensor stages_;  // kernels::SparseDecodeStages of the last measured call
};

}  // namespace spotlight::engine
