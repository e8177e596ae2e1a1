// Identifies a model for its hash file.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/checkpoint.h"
#include "engine/model/config.h"

namespace spotlight::engine {

// The layer whose keys the fingerprint looks at: the first that a hash file usually serves.
inline constexpr int32_t kFingerprintLayer = 2;

// sha256, 64 lower-case hexadecimal digits, of these bytes one after another:
//   1. `k_proj`, which is model.layers.2.self_attn.k_proj.weight: its elements in row-major order as little-endian fp32
//      (bf16 and fp16 widened, so the storage type does not matter);
//   2. the text "\nrope_theta=" THETA "\nrope_scaling=" SCALING "\n", where THETA is the shortest decimal text that
//   reads
//      back to the same double, as JSON writes it ("10000.0"), and SCALING is ModelConfig::rope_scaling_json (rope.h).
std::string ModelFingerprint(const TensorView& k_proj, const ModelConfig& config);

// Of a checkpoint; the tensor's pages are released. INVALID_ARGUMENT: the model has too few layers; else as
// Checkpoint::Find.
absl::StatusOr<std::string> CheckpointFingerprint(const Checkpoint& checkpoint, const ModelConfig& config);

// Of the model that random_weights.h makes with `seed`.
absl::StatusOr<std::string> RandomWeightsFingerprint(const ModelConfig& config, uint64_t seed);

}  // namespace spotlight::engine
