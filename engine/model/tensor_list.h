// The tensors that a model of a given config consists of: what loading asks of a checkpoint, what random weights fill,
// and what the parameter count adds up.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/config.h"

namespace spotlight::engine {

struct TensorSpec {
  std::string name;  // "model.layers.0.self_attn.q_proj.weight"
  std::vector<int64_t> shape;
};

// "model.layers.LAYER.SUFFIX".
std::string LayerTensorName(int32_t layer, const std::string& suffix);

// In the order of the forward pass. Linear weights are [out, in]. With tied embeddings there is no lm_head.weight.
std::vector<TensorSpec> RequiredTensors(const ModelConfig& config);

int64_t NumParameters(const ModelConfig& config);

}  // namespace spotlight::engine
