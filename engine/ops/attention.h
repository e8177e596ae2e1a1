// What a decoder asks of its attention: one layer's projections in, the heads' outputs out.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/batch.h"
#include "engine/model_runner.h"
#include "kernels/encode_and_append.h"

namespace spotlight::engine {

// A layer's hash on the device.
struct LayerHash {
  kernels::HashWeights weights;
  std::vector<at::Tensor> storage;  // what `weights` points into
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
  at::Tensor sample_index;   // [samples + scored] int64, tokens whose logits are wanted
  at::Tensor sample_rows;    // [samples + scored] kernels::SampleRowParams as bytes; on a GPU
  int32_t max_context = 0;   // longest of context_len
};

// Engine thread only. All work goes to the current stream of the tensors' device.
class Attention {
 public:
  virtual ~Attention() = default;

  // qkv [T, (Hq + 2 Hkv) * D], biases added, before RoPE -> [T, Hq * D]. `hash` may be null: a dense layer. `seconds`
  // is not null in a step that measures retrieval.
  virtual absl::StatusOr<at::Tensor> Forward(int32_t layer, const at::Tensor& qkv, const LayerHash* hash,
                                             const StepTensors& step, RetrievalSeconds* seconds) = 0;

  // In place of Forward where nobody wants outputs: appends the step's keys, values and codes to the cache.
  virtual absl::Status Append(int32_t layer, const at::Tensor& qkv, const LayerHash* hash, const StepTensors& step) {
    return Forward(layer, qkv, hash, step, /*seconds=*/nullptr).status();
  }
};

}  // namespace spotlight::engine
