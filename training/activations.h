// What one sequence's pass through the model leaves for the training of its hashes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "training/sequence_model.h"

namespace spotlight::training {

// After RoPE, positions 0 .. T - 1, in the model's number type; layers [first_layer, num_layers), L of them.
struct Activations {
  at::Tensor q;  // [L, Hq, T, D]
  at::Tensor k;  // [L, Hkv, T, D]
};

// One dense pass. The tensors are on `storage` (the model's device, or the CPU to spare its memory).
absl::StatusOr<Activations> Capture(const SequenceModel& model, absl::Span<const int32_t> token_ids,
                                    int32_t first_layer, at::Device storage);

// Bytes of one sequence's activations.
int64_t ActivationBytes(const engine::ModelConfig& config, int32_t first_layer, int64_t tokens, at::ScalarType dtype);

}  // namespace spotlight::training
