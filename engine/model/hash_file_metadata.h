// The text part of a hash file: its safetensors metadata, format = spotlight-hash-1. Every value is a string there.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace spotlight::engine {

struct HashFileMetadata {
  // "z": MLP plus skip | "linear": skip and b2 alone | "paper": evaluation only
  std::string encoder = "z";
  // Real-valued queries quantised to planes, the only one served. Evaluation only: "symmetric" (query bits against key
  // bits), and both with "-per-query-head" behind (codes for each of Hq heads).
  std::string scoring = "asymmetric";
  int32_t num_planes = 4;     // planes = J
  float plane_step = 0.335f;  // c
  int32_t hash_bits = 128;    // 32 * W: 32, 64, 128 or 256
  int32_t prefix_bits = 0;    // 0 | 32: the first word was trained to rank by itself
  int32_t num_layers = 0, num_kv_heads = 0, group = 0, head_dim = 0;  // of the model
  std::vector<int32_t> layers;                                        // hashed layers, ascending; written "2,3,4"
  std::string model_fingerprint;                                      // see fingerprint.h
  bool trained = false;                                               // "true" | "false"
  std::string recipe, corpus_sha256, heldout;  // how it was made and how well it does; not read by the server
};

// INVALID_ARGUMENT "metadata KEY: reason": a key that is missing, unknown format, encoder or scoring, a value out of
// range. recipe, corpus_sha256 and heldout may be absent.
absl::StatusOr<HashFileMetadata> ParseHashFileMetadata(const std::map<std::string, std::string>& metadata);

// Whether the kernels read codes of this size: 32, 64, 128 or 256 bits.
bool IsHashBits(int32_t bits);

std::map<std::string, std::string> FormatHashFileMetadata(const HashFileMetadata& metadata);

}  // namespace spotlight::engine
