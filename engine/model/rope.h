// Rotary position embeddings as a checkpoint's config.json describes them, computed as transformers does: fp32 in the
// places where it works in fp32, so that frequencies agree to the last bit or the one before it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace spotlight::engine {

struct Rope {
  std::vector<float> inv_freq;  // [head_dim / 2], scaling applied
  float scale = 1.0f;           // cos and sin are multiplied by it
  double theta = 0;
  int32_t max_context_tokens = 0;  // max_position_embeddings; YaRN: factor * original_max_position_embeddings
  // The scaling in force and nothing else: "null" for none, else a compact JSON object with sorted keys, defaults
  // filled in, numbers as the shortest text that reads back to the same double ("8.0"). Two spellings of one scaling
  // ("type" or "rope_type", a default written out or left out, rope_scaling or rope_parameters) give one text.
  //   linear  factor, rope_type
  //   llama3  factor, high_freq_factor, low_freq_factor, original_max_position_embeddings, rope_type
  //   yarn    attention_factor, beta_fast, beta_slow, factor, original_max_position_embeddings, rope_type, truncate
  std::string scaling_json = "null";
};

// Reads rope_theta (absent: 10000, the families' own default) and rope_scaling, or rope_parameters, which newer
// checkpoints write instead of both. INVALID_ARGUMENT "FIELD: reason": rope types other than default, linear, llama3
// and yarn, missing or senseless parameters, rotation of only a part of each head.
absl::StatusOr<Rope> ReadRope(const nlohmann::json& config, int32_t head_dim, int32_t max_position_embeddings);

}  // namespace spotlight::engine
