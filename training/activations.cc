#include "training/activations.h"

#include <ATen/ops/empty.h>

namespace spotlight::training {

absl::StatusOr<Activations> Capture(const SequenceModel& model, absl::Span<const int32_t> token_ids,
                                    int32_t first_layer, at::Device storage) {
  const engine::ModelConfig& config = model.config();
  const auto tokens = static_cast<int64_t>(token_ids.size());
  const int64_t layers = config.num_layers - first_layer;
  const auto options = at::TensorOptions().dtype(model.dtype()).device(storage);
  Activations activations;
  const auto keep = [&](const AttentionInput& input) -> absl::StatusOr<at::Tensor> {
    if (input.layer >= first_layer) {
      // Allocated here, where running out of memory is caught.
      if (!activations.q.defined()) {
        activations.q = at::empty({layers, config.num_q_heads, tokens, config.head_dim}, options);
        activations.k = at::empty({layers, config.num_kv_heads, tokens, config.head_dim}, options);
      }
      activations.q.select(0, input.layer - first_layer).copy_(input.q);
      activations.k.select(0, input.layer - first_layer).copy_(input.k);
    }
    return DenseAttention(input);
  };
  auto states = model.Run(token_ids, keep, tokens - 1, tokens);
  if (!states.ok()) return states.status();
  return activations;
}

int64_t ActivationBytes(const engine::ModelConfig& config, int32_t first_layer, int64_t tokens, at::ScalarType dtype) {
  return int64_t{config.num_layers - first_layer} * (config.num_q_heads + config.num_kv_heads) * tokens *
         config.head_dim * static_cast<int64_t>(at::elementSize(dtype));
}

}  // namespace spotlight::training
