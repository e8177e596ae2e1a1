#include "engine/model/tensor_list.h"

#include "absl/strings/str_cat.h"

namespace spotlight::engine {
namespace {

void AddLinear(const std::string& name, int64_t out, int64_t in, bool bias, std::vector<TensorSpec>& tensors) {
  tensors.push_back({name + ".weight", {out, in}});
  if (bias) tensors.push_back({name + ".bias", {out}});
}

}  // namespace

std::string LayerTensorName(int32_t layer, const std::string& suffix) {
  return absl::StrCat("model.layers.", layer, ".", suffix);
}

std::vector<TensorSpec> RequiredTensors(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t intermediate = config.intermediate_size;
  const int64_t q_size = int64_t{config.num_q_heads} * config.head_dim;
  const int64_t kv_size = int64_t{config.num_kv_heads} * config.head_dim;
  std::vector<TensorSpec> tensors;
  tensors.push_back({"model.embed_tokens.weight", {config.vocab_size, hidden}});
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    const auto name = [layer](const char* suffix) { return LayerTensorName(layer, suffix); };
    tensors.push_back({name("input_layernorm.weight"), {hidden}});
    AddLinear(name("self_attn.q_proj"), q_size, hidden, config.attention_bias, tensors);
    AddLinear(name("self_attn.k_proj"), kv_size, hidden, config.attention_bias, tensors);
    AddLinear(name("self_attn.v_proj"), kv_size, hidden, config.attention_bias, tensors);
    AddLinear(name("self_attn.o_proj"), hidden, q_size, config.attention_output_bias, tensors);
    tensors.push_back({name("post_attention_layernorm.weight"), {hidden}});
    AddLinear(name("mlp.gate_proj"), intermediate, hidden, config.mlp_bias, tensors);
    AddLinear(name("mlp.up_proj"), intermediate, hidden, config.mlp_bias, tensors);
    AddLinear(name("mlp.down_proj"), hidden, intermediate, config.mlp_bias, tensors);
  }
  tensors.push_back({"model.norm.weight", {hidden}});
  if (!config.tie_word_embeddings) tensors.push_back({"lm_head.weight", {config.vocab_size, hidden}});
  return tensors;
}

int64_t NumParameters(const ModelConfig& config) {
  int64_t total = 0;
  for (const TensorSpec& tensor : RequiredTensors(config)) {
    int64_t count = 1;
    for (const int64_t dimension : tensor.shape) count *= dimension;
    total += count;
  }
  return total;
}

}  // namespace spotlight::engine
