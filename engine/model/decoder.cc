#include "engine/model/decoder.h"

#include <ATen/ops/index_select.h>
#include <ATen/ops/isfinite.h>
#include <c10/cuda/CUDACachingAllocator.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/model/tensor_list.h"
#include "engine/model/weight_loader.h"
#include "engine/ops/pointwise.h"
#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

// What the kernels are built for.
absl::Status CheckShapes(const ModelConfig& config) {
  if (config.head_dim != 64 && config.head_dim != 128) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: head size must be 64 or 128, got ", config.head_dim));
  }
  const int32_t group = config.num_q_heads / config.num_kv_heads;
  if (group > kernels::kMaxGroup) {
    return absl::InvalidArgumentError(
        absl::StrCat("config.json: at most ", kernels::kMaxGroup, " query heads per key/value head, got ", group));
  }
  for (const auto& [name, size] : {std::make_pair("hidden_size", config.hidden_size),
                                   std::make_pair("intermediate_size", config.intermediate_size)}) {
    if (size % 16 != 0) {
      return absl::InvalidArgumentError(absl::StrCat("config.json: ", name, " must be a multiple of 16, got ", size));
    }
  }
  return absl::OkStatus();
}

constexpr char kEmbeddingName[] = "model.embed_tokens.weight";

// What a WeightLoader will be asked for, in the source's types: every tensor once, but not a table that stays mapped.
absl::StatusOr<int64_t> BytesToLoad(const ModelConfig& config, TensorSource* source, at::ScalarType dtype,
                                    at::Device device) {
  int64_t total = 0;
  for (const TensorSpec& spec : RequiredTensors(config)) {
    auto tensor = source->Find(spec.name, spec.shape, dtype);
    if (!tensor.ok()) return tensor.status();
    if (spec.name == kEmbeddingName && !config.tie_word_embeddings && device.is_cpu()) {
      const auto mapped = source->Map(spec.name, spec.shape);
      if (!mapped.ok()) return mapped.status();
      if (mapped->data != nullptr) continue;
    }
    total += tensor->num_bytes();
  }
  return total;
}

// Loads one layer's tensors, each failing once for all.
class LayerLoader {
 public:
  LayerLoader(WeightLoader* weights, int32_t layer, Quantization quantization)
      : weights_(weights), prefix_(LayerTensorName(layer, "")), quantization_(quantization) {}

  at::Tensor Vector(const std::string& name, int64_t size) {
    const at::Tensor vector = weights_->Empty({size});
    LoadInto(name, vector);
    return vector;
  }

  // Projections with one input side by side, in one matrix. rows: their output sizes.
  Linear Fused(const std::vector<std::pair<std::string, int64_t>>& parts, int64_t num_in, bool bias) {
    int64_t num_out = 0;
    for (const auto& [name, rows] : parts) num_out += rows;
    const at::Tensor weight = weights_->Empty({num_out, num_in});
    const at::Tensor biases = bias ? weights_->Empty({num_out}) : at::Tensor();
    int64_t begin = 0;
    for (const auto& [name, rows] : parts) {
      LoadInto(name + ".weight", weight.narrow(0, begin, rows));
      if (bias) LoadInto(name + ".bias", biases.narrow(0, begin, rows));
      begin += rows;
    }
    if (!status_.ok()) return Linear();
    // An infinity would be every other weight's scale, and a NaN become a number.
    if (quantization_ == Quantization::kFp8 && !at::isfinite(weight).all().item<bool>()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(prefix_, parts[0].first,
                                                        parts.size() > 1 ? " or what goes with it" : "",
                                                        ": holds a number that is not finite, which fp8 cannot"));
      return Linear();
    }
    return Linear(weight, biases, quantization_);
  }

  const absl::Status& status() const { return status_; }

 private:
  void LoadInto(const std::string& name, const at::Tensor& out) {
    if (status_.ok()) status_ = weights_->LoadInto(prefix_ + name, out);
  }

  WeightLoader* weights_;
  std::string prefix_;
  Quantization quantization_;
  absl::Status status_;
};

// Whether the tokens whose logits are wanted are all of the step's, in their order, as where every row decodes.
bool IsEveryToken(const at::Tensor& sample_index, const StepTensors& step) {
  if (step.batch == nullptr || !sample_index.is_same(step.sample_index)) return false;
  const std::vector<SampleRow>& samples = step.batch->samples;
  if (!step.batch->scored.empty() || static_cast<int32_t>(samples.size()) != step.batch->num_tokens()) return false;
  for (size_t i = 0; i < samples.size(); ++i) {
    if (samples[i].token_index != static_cast<int32_t>(i)) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Load(const ModelConfig& config, TensorSource* source,
                                                       at::ScalarType dtype, at::Device device,
                                                       Quantization quantization, const LoadProgress& progress) {
  if (auto status = CheckShapes(config); !status.ok()) return status;
  const bool fp8_on_gpu = quantization == Quantization::kFp8 && device.is_cuda();
  if (fp8_on_gpu && dtype != at::kBFloat16) {
    return absl::InvalidArgumentError("quantization: fp8 on a GPU needs bf16, not fp32");
  }
  const auto bytes = BytesToLoad(config, source, dtype, device);
  if (!bytes.ok()) return bytes.status();
  WeightLoader weights(source, dtype, device, *bytes, progress);
  std::unique_ptr<Decoder> decoder(new Decoder());
  const int64_t hidden = config.hidden_size;
  const int64_t q_width = int64_t{config.num_q_heads} * config.head_dim;
  const int64_t kv_width = int64_t{config.num_kv_heads} * config.head_dim;
  for (int32_t index = 0; index < config.num_layers; ++index) {
    LayerLoader loader(&weights, index, quantization);
    DecoderLayer layer;
    layer.input_norm = {loader.Vector("input_layernorm.weight", hidden), config.rms_norm_eps};
    layer.qkv =
        loader.Fused({{"self_attn.q_proj", q_width}, {"self_attn.k_proj", kv_width}, {"self_attn.v_proj", kv_width}},
                     hidden, config.attention_bias);
    layer.output = loader.Fused({{"self_attn.o_proj", hidden}}, q_width, config.attention_output_bias);
    layer.post_attention_norm = {loader.Vector("post_attention_layernorm.weight", hidden), config.rms_norm_eps};
    layer.gate_up =
        loader.Fused({{"mlp.gate_proj", config.intermediate_size}, {"mlp.up_proj", config.intermediate_size}}, hidden,
                     config.mlp_bias);
    layer.down = loader.Fused({{"mlp.down_proj", hidden}}, config.intermediate_size, config.mlp_bias);
    if (!loader.status().ok()) return loader.status();
    decoder->layers_.push_back(std::move(layer));
  }
  auto norm = weights.Load("model.norm.weight", {hidden});
  if (!norm.ok()) return norm.status();
  decoder->final_norm_ = {*std::move(norm), config.rms_norm_eps};

  auto embedding = Embedding::Load(source, &weights, kEmbeddingName, config.vocab_size, hidden, dtype, device);
  if (!embedding.ok()) return embedding.status();
  decoder->embedding_ = *std::move(embedding);
  absl::StatusOr<at::Tensor> head = decoder->embedding_.table();
  if (!config.tie_word_embeddings || !head->defined()) {
    head = weights.Load(config.tie_word_embeddings ? kEmbeddingName : "lm_head.weight", {config.vocab_size, hidden});
  }
  if (!head.ok()) return head.status();
  decoder->head_ = Linear(*head, at::Tensor());
  weights.Finish();
  // What matrices were converted and rounded from: what sizes the cache is to find their memory free.
  if (device.is_cuda()) c10::cuda::CUDACachingAllocator::emptyCache();
  return decoder;
}

int64_t Decoder::ActivationBytes(const ModelConfig& config, int64_t tokens, at::ScalarType dtype, at::Device device,
                                 Quantization quantization) {
  const int64_t q_width = int64_t{config.num_q_heads} * config.head_dim;
  const int64_t kv_width = int64_t{config.num_kv_heads} * config.head_dim;
  // The residual stream, its update and a norm's output twice; qkv, rotated queries and what they attended to; gate and
  // up, and their product.
  const int64_t width =
      int64_t{4} * config.hidden_size + 3 * q_width + 2 * kv_width + int64_t{3} * config.intermediate_size;
  const int64_t activations = tokens * width * static_cast<int64_t>(c10::elementSize(dtype));
  if (quantization == Quantization::kNone || device.is_cpu()) return activations;
  if (!Linear::MultipliesFp8(device)) {  // the largest matrix, widened: for steps, and in captured ones' memory
    return activations + int64_t{4} * config.intermediate_size * config.hidden_size *
                             static_cast<int64_t>(sizeof(float) + c10::elementSize(dtype));
  }
  // A layer's input in fp8 and its scales.
  const int64_t widest = std::max<int64_t>({config.hidden_size, q_width, config.intermediate_size});
  return activations + tokens * (widest + static_cast<int64_t>(sizeof(float)));
}

absl::StatusOr<at::Tensor> Decoder::Forward(const StepTensors& step, const at::Tensor& sample_index,
                                            const std::map<int32_t, LayerHash>& hashes, Attention* attention,
                                            RetrievalSeconds* seconds) const {
  auto states = HiddenStates(step, sample_index, hashes, attention, seconds);
  if (!states.ok()) return states.status();
  return Logits(*states);
}

at::Tensor Decoder::Logits(const at::Tensor& hidden_states) const {
  return head_(hidden_states).to(at::kFloat);
}

absl::StatusOr<at::Tensor> Decoder::HiddenStates(const StepTensors& step, const at::Tensor& sample_index,
                                                 const std::map<int32_t, LayerHash>& hashes, Attention* attention,
                                                 RetrievalSeconds* seconds) const {
  ResidualStream stream = {embedding_(step.token_ids), at::Tensor()};
  for (size_t index = 0; index < layers_.size(); ++index) {
    const DecoderLayer& layer = layers_[index];
    const auto layer_index = static_cast<int32_t>(index);
    const auto found = hashes.find(layer_index);
    const LayerHash* const hash = found == hashes.end() ? nullptr : &found->second;
    const auto qkv = layer.qkv.OfNorm(layer.input_norm, &stream);
    if (!qkv.ok()) return qkv.status();
    // Of the last layer's outputs, only those of the sampled tokens are wanted: of a chunk inside a prompt none.
    const bool last = index + 1 == layers_.size();
    if (last && sample_index.size(0) == 0) {
      if (auto status = attention->Append(layer_index, *qkv, hash, step); !status.ok()) return status;
      return stream.x.narrow(0, 0, 0);
    }
    auto attended = attention->Forward(layer_index, *qkv, hash, step, seconds);
    if (!attended.ok()) return attended.status();
    if (last && !IsEveryToken(sample_index, step)) {
      stream.x = at::index_select(stream.x, 0, sample_index);
      *attended = at::index_select(*attended, 0, sample_index);
    }
    layer.output.AddTo(*attended, &stream);
    const auto activated = layer.gate_up.SiluMulOfNorm(layer.post_attention_norm, &stream);
    if (!activated.ok()) return activated.status();
    layer.down.AddTo(*activated, &stream);
  }
  return AddRmsNorm(stream.x, stream.update, final_norm_.weight, final_norm_.eps);
}

}  // namespace spotlight::engine
