#include "engine/model/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace spotlight::engine {
namespace {

// As transformers computes it: the mean of squares in fp32, the result rounded before the weight is applied.
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scale = at::rsqrt(wide.square().mean(-1, /*keepdim=*/true) + eps);
  return weight * (wide * scale).to(x.scalar_type());
}

// Loads one layer's tensors, each failing once for all.
class LayerLoader {
 public:
  LayerLoader(TensorSource* source, int32_t layer, at::ScalarType dtype, at::Device device)
      : source_(source), prefix_(absl::StrCat("model.layers.", layer, ".")), dtype_(dtype), device_(device) {}

  at::Tensor Vector(const std::string& name, int64_t size) { return Load(name, {size}).to(device_); }

  // Projections with one input side by side, in one matrix. rows: their output sizes.
  Linear Fused(const std::vector<std::pair<std::string, int64_t>>& parts, int64_t num_in, bool bias) {
    std::vector<at::Tensor> weights, biases;
    for (const auto& [name, rows] : parts) {
      weights.push_back(Load(name + ".weight", {rows, num_in}));
      if (bias) biases.push_back(Load(name + ".bias", {rows}));
    }
    if (!status_.ok()) return Linear();
    const at::Tensor weight = weights.size() == 1 ? weights[0] : at::cat(weights);
    weights.clear();
    return Linear(weight.to(device_), bias ? at::cat(biases).to(device_) : at::Tensor());
  }

  const absl::Status& status() const { return status_; }

 private:
  at::Tensor Load(const std::string& name, const std::vector<int64_t>& shape) {
    auto tensor = source_->Load(prefix_ + name, shape, dtype_);
    if (tensor.ok()) return *std::move(tensor);
    if (status_.ok()) status_ = tensor.status();
    return at::Tensor();
  }

  TensorSource* source_;
  std::string prefix_;
  at::ScalarType dtype_;
  at::Device device_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Load(const ModelConfig& config, TensorSource* source,
                                                       at::ScalarType dtype, at::Device device) {
  std::unique_ptr<Decoder> decoder(new Decoder());
  decoder->intermediate_size_ = config.intermediate_size;
  decoder->rms_norm_eps_ = config.rms_norm_eps;
  const int64_t hidden = config.hidden_size;
  const int64_t q_width = int64_t{config.num_q_heads} * config.head_dim;
  const int64_t kv_width = int64_t{config.num_kv_heads} * config.head_dim;
  for (int32_t index = 0; index < config.num_layers; ++index) {
    LayerLoader loader(source, index, dtype, device);
    DecoderLayer layer;
    layer.input_norm = loader.Vector("input_layernorm.weight", hidden);
    layer.qkv = loader.Fused(
        {{"self_attn.q_proj", q_width}, {"self_attn.k_proj", kv_width}, {"self_attn.v_proj", kv_width}}, hidden,
        config.attention_bias);
    layer.output = loader.Fused({{"self_attn.o_proj", hidden}}, q_width, config.attention_output_bias);
    layer.post_attention_norm = loader.Vector("post_attention_layernorm.weight", hidden);
    layer.gate_up =
        loader.Fused({{"mlp.gate_proj", config.intermediate_size}, {"mlp.up_proj", config.intermediate_size}}, hidden,
                     config.mlp_bias);
    layer.down = loader.Fused({{"mlp.down_proj", hidden}}, config.intermediate_size, config.mlp_bias);
    if (!loader.status().ok()) return loader.status();
    decoder->layers_.push_back(std::move(layer));
  }
  auto norm = source->Load("model.norm.weight", {hidden}, dtype);
  if (!norm.ok()) return norm.status();
  decoder->final_norm_ = norm->to(device);

  const std::string embedding_name = "model.embed_tokens.weight";
  auto embedding = Embedding::Load(source, embedding_name, config.vocab_size, hidden, dtype, device);
  if (!embedding.ok()) return embedding.status();
  decoder->embedding_ = *std::move(embedding);
  auto head = source->Load(config.tie_word_embeddings ? embedding_name : "lm_head.weight",
                           {config.vocab_size, hidden}, dtype);
  if (!head.ok()) return head.status();
  decoder->head_ = Linear(head->to(device), at::Tensor());
  return decoder;
}

at::Tensor Decoder::Mlp(const DecoderLayer& layer, const at::Tensor& x) const {
  const at::Tensor gate_up = layer.gate_up(x);
  return layer.down(at::silu(gate_up.narrow(1, 0, intermediate_size_)) *
                    gate_up.narrow(1, intermediate_size_, intermediate_size_));
}

absl::StatusOr<at::Tensor> Decoder::Forward(const StepTensors& step, const at::Tensor& sample_index,
                                            const std::map<int32_t, LayerHash>& hashes, SpotlightAttention* attention,
                                            RetrievalSeconds* seconds) const {
  at::Tensor x = embedding_(step.token_ids);
  for (size_t index = 0; index < layers_.size(); ++index) {
    const DecoderLayer& layer = layers_[index];
    const auto hash = hashes.find(static_cast<int32_t>(index));
    auto attended =
        attention->Forward(static_cast<int32_t>(index), layer.qkv(RmsNorm(x, layer.input_norm, rms_norm_eps_)),
                           hash == hashes.end() ? nullptr : &hash->second, step, seconds);
    if (!attended.ok()) return attended.status();
    x = x + layer.output(*attended);
    x = x + Mlp(layer, RmsNorm(x, layer.post_attention_norm, rms_norm_eps_));
  }
  const at::Tensor last = at::index_select(x, 0, sample_index);
  return head_(RmsNorm(last, final_norm_, rms_norm_eps_)).to(at::kFloat);
}

}  // namespace spotlight::engine
