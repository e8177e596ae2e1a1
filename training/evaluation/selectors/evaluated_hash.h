// A hash file's encoders as float tensors: the served kinds, and those that exist to be compared with them.
//
// Metadata `scoring` names the kind. asymmetric: the group's real-valued weights, quantised to planes, against key
// bits. symmetric: each query head's bits against key bits, matches summed over the group. With "-per-query-head"
// behind it every query head has its own encoders and codes (tensors for Hq heads) and selects by itself.
// Every encoder is h = silu(x W1 + b1) W2 + b2 + x S; what a file leaves out is zero.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "engine/model/hash_file_metadata.h"

namespace spotlight::training {

// Of U units: KV heads, or query heads. in: D, or G * D for the group's queries side by side.
struct HashEncoder {
  at::Tensor w1, b1, w2;  // [U, in, M], [U, 1, M], [U, M, bits]; undefined without a hidden layer
  at::Tensor b2, skip;    // [U, 1, bits], [U, in, bits]; either may be undefined
};

// x [U, n, in] float -> [U, n, bits].
at::Tensor Encode(const HashEncoder& encoder, const at::Tensor& x);

struct LayerEncoders {
  HashEncoder key, query;
  at::Tensor logit_scale;  // [U, 1, 1]
};

struct EvaluatedHash {
  std::string path;
  engine::HashFileMetadata metadata;  // as the file says, scoring included
  bool symmetric = false, by_query_head = false;
  std::map<int32_t, LayerEncoders> layers;
};

// NOT_FOUND or INVALID_ARGUMENT "PATH: reason", as engine::LoadHashFile; files with trained = false are taken.
absl::StatusOr<EvaluatedHash> LoadEvaluatedHash(const std::string& path, const engine::ModelConfig& config,
                                                const std::string& model_fingerprint, at::Device device);

}  // namespace spotlight::training
