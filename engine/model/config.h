// A checkpoint's config.json and generation_config.json: Llama (2, 3, 3.1), Qwen2 / 2.5 and Mistral families. Fields
// that a file leaves out have the family's default of transformers; those without a sensible one (sizes) are required.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/request.h"

namespace spotlight::engine {

struct ModelConfig {
  std::string architecture;  // LlamaForCausalLM | Qwen2ForCausalLM | MistralForCausalLM
  int32_t hidden_size = 0, intermediate_size = 0, vocab_size = 0;
  int32_t num_layers = 0, num_q_heads = 0, num_kv_heads = 0, head_dim = 0;
  float rms_norm_eps = 1e-6f;
  bool tie_word_embeddings = false;
  bool attention_bias = false;         // q, k and v (Qwen2: always)
  bool attention_output_bias = false;  // o (Llama with attention_bias)
  bool mlp_bias = false;

  // Rotary embedding, ready for use: inv_freq [head_dim / 2], scaling applied (llama3, linear, yarn; "default"); cos
  // and sin are multiplied by rope_scale (1, or YaRN's attention factor).
  std::vector<float> inv_freq;
  float rope_scale = 1.0f;
  double rope_theta = 0;
  std::string rope_scaling_json;  // canonical text of the scaling ("null" without): see rope.h

  // Longest context served: max_position_embeddings (YaRN: factor * original), capped by an active sliding window.
  int32_t max_context_tokens = 0;
  // 0: none, or not active. Mistral: active unless null (absent: 4096). Qwen2: active with use_sliding_window where
  // layer_types or max_window_layers give some layer the window.
  int32_t sliding_window = 0;

  std::vector<int32_t> eos_token_ids;  // generation_config.json's, else config.json's; may be empty
  // generation_config.json's, else what SamplingParams names: every optional but the seed is set. "do_sample": false is
  // temperature 0.
  SamplingParams default_sampling;
};

// Reads `model_folder`/config.json and, where there is one, generation_config.json. NOT_FOUND or INVALID_ARGUMENT:
// "PATH: reason", for missing fields, wrong types or values, an unknown architecture, an unsupported RoPE type.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& model_folder);

}  // namespace spotlight::engine
