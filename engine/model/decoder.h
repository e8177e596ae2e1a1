// The decoder of a Llama-family model: embeddings, layers of attention and MLP, and the output head.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/config.h"
#include "engine/model/embedding.h"
#include "engine/model/linear.h"
#include "engine/model/quantization.h"
#include "engine/model/residual_stream.h"
#include "engine/model/tensor_source.h"
#include "engine/ops/attention.h"

namespace spotlight::engine {

struct DecoderLayer {
  RmsNorm input_norm, post_attention_norm;
  Linear qkv;      // [T, hidden] -> [T, (Hq + 2 Hkv) * D]
  Linear output;   // [T, Hq * D] -> [T, hidden]
  Linear gate_up;  // [T, hidden] -> [T, 2 * intermediate], gate first
  Linear down;     // [T, intermediate] -> [T, hidden]
};

// Engine thread only.
class Decoder {
 public:
  // Weights go straight to `device` in `dtype` (weight_loader.h), and are quantised there. `source` outlives the
  // decoder; `progress` may be null. INVALID_ARGUMENT: fp8 on a GPU in another type than bf16. A tensor that is missing
  // or has another shape is found before any is read.
  static absl::StatusOr<std::unique_ptr<Decoder>> Load(const ModelConfig& config, TensorSource* source,
                                                       at::ScalarType dtype, at::Device device,
                                                       Quantization quantization = Quantization::kNone,
                                                       const LoadProgress& progress = nullptr);

  // What a step of so many tokens allocates at most beside what attention does.
  static int64_t ActivationBytes(const ModelConfig& config, int64_t tokens, at::ScalarType dtype, at::Device device,
                                 Quantization quantization);

  // Runs one step. `sample_index` [R] int64: the packed tokens whose logits are wanted -> [R, vocab] float on the
  // device. `hashes`: by layer; a layer that is missing is dense. `seconds` may be null.
  absl::StatusOr<at::Tensor> Forward(const StepTensors& step, const at::Tensor& sample_index,
                                     const std::map<int32_t, LayerHash>& hashes, Attention* attention,
                                     RetrievalSeconds* seconds) const;

  // Forward's two halves, for callers that want the logits of many tokens a few at a time: the normed states of the
  // sampled tokens [R, hidden], and what the output head makes of them [R, vocab] float.
  absl::StatusOr<at::Tensor> HiddenStates(const StepTensors& step, const at::Tensor& sample_index,
                                          const std::map<int32_t, LayerHash>& hashes, Attention* attention,
                                          RetrievalSeconds* seconds) const;
  at::Tensor Logits(const at::Tensor& hidden_states) const;
  // The same as the head gives them, in the weights' dtype.
  at::Tensor HeadOutputs(const at::Tensor& hidden_states) const { return head_(hidden_states); }

 private:
  Decoder() = default;
  Embedding embedding_;
  std::vector<DecoderLayer> layers_;
  RmsNorm final_norm_;
  Linear head_;
};

}  // namespace spotlight::engine
