// What is being served: facts for limits, capacity and the info RPCs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/request.h"

namespace spotlight::engine {

struct HashInfo {
  bool present = false;
  bool trained = false;
  int32_t hash_bits = 0;
  int32_t num_planes = 0;
  std::vector<int32_t> layers;  // hashed layers; all others are dense
  std::string path;
};

struct ModelInfo {
  std::string name;            // what requests may name: --model-name, else the folder's name
  std::string architecture;    // "LlamaForCausalLM", ...
  std::string device;          // "cpu", "cuda:0"
  std::string dtype;           // "bf16", "fp32"
  std::string quantization;    // "none", "fp8": of the layers' matrices
  std::string kv_cache_dtype;  // as dtype, or "fp8"; empty: as dtype
  int32_t num_layers = 0, num_q_heads = 0, num_kv_heads = 0, head_dim = 0;
  int32_t vocab_size = 0;
  int32_t max_context_tokens = 0;  // prompt + output of one request
  bool context_is_cache = false;   // it is what the KV cache holds, less than the model takes
  int64_t num_parameters = 0;
  std::vector<int32_t> eos_token_ids;
  bool has_chat_template = false;   // set by Engine::Create
  SamplingParams default_sampling;  // from generation_config.json, every optional set
  HashInfo hash;
};

}  // namespace spotlight::engine
