// A checkpoint that runs whole token sequences, with the attention of every layer in the caller's hands: training and
// evaluation look at queries, keys and values there, and may put something sparser in the place of dense attention.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "engine/load.h"
#include "engine/model/config.h"
#include "engine/model/decoder.h"
#include "engine/model/weights.h"
#include "engine/tokenizer/tokenizer.h"

namespace spotlight::training {

// What one layer's attention is given for a sequence of T tokens, after RoPE, in the model's number type.
struct AttentionInput {
  int32_t layer = 0;
  at::Tensor q;     // [Hq, T, D]; query heads h * G .. h * G + G - 1 share KV head h
  at::Tensor k, v;  // [Hkv, T, D]
};

// Returns the heads' outputs [Hq, T, D].
using AttentionFunction = std::function<absl::StatusOr<at::Tensor>(const AttentionInput&)>;

// Causal attention of every token to all tokens before it and itself, exact; fp32 arithmetic on the CPU.
at::Tensor DenseAttention(const AttentionInput& input);

struct SequenceModelOptions {
  std::string model_folder;                                // config.json, tokenizer.json, *.safetensors
  absl::optional<uint64_t> random_weights_seed;            // set: weights drawn from this seed, none read
  engine::DTypeChoice dtype = engine::DTypeChoice::kAuto;  // of weights and activations
  engine::Quantization quantization = engine::Quantization::kNone;
  // fp8: keys and values are rounded as such a cache does, and read so everywhere.
  engine::KvCacheDType kv_cache_dtype = engine::KvCacheDType::kAuto;
  std::string device = "auto";  // as spotlight-server's --device
};

// Thread-compatible. Torch exceptions do not leave it.
class SequenceModel {
 public:
  // Errors name the file or the option's value and the reason.
  static absl::StatusOr<std::unique_ptr<SequenceModel>> Load(const SequenceModelOptions& options);

  // Runs `token_ids` [T] at positions first_position .. first_position + T - 1 and returns the normed states
  // [end - begin, hidden] of the tokens [begin, end), counted from the first one given. INVALID_ARGUMENT: an id outside
  // the vocabulary, an empty or reversed range, a position under 0. RESOURCE_EXHAUSTED: out of memory. What `attend`
  // returns as an error ends the run. With a first_position over 0 the tokens before are for `attend` to know of.
  absl::StatusOr<at::Tensor> Run(absl::Span<const int32_t> token_ids, const AttentionFunction& attend, int64_t begin,
                                 int64_t end, int64_t first_position = 0) const;
  // Logits [R, vocab] float of states [R, hidden].
  at::Tensor Logits(const at::Tensor& states) const { return decoder_->Logits(states); }

  const engine::ModelConfig& config() const { return config_; }
  // See engine/model/fingerprint.h; empty for a model that has no layer to hash.
  const std::string& fingerprint() const { return weights_->fingerprint; }
  // Null with random weights and no tokenizer.json.
  const engine::Tokenizer* tokenizer() const { return tokenizer_.get(); }
  at::Device device() const { return device_; }
  at::ScalarType dtype() const { return dtype_; }

 private:
  SequenceModel() = default;

  engine::ModelConfig config_;
  std::shared_ptr<engine::ModelWeights> weights_;
  std::unique_ptr<engine::Decoder> decoder_;
  std::unique_ptr<engine::Tokenizer> tokenizer_;
  at::Device device_ = at::kCPU;
  at::ScalarType dtype_ = at::kFloat;
  bool e4m3_cache_ = false;
};

// Rotates x [..., T, D] by `positions` [T] (integers or floats): pairs (i, i + D / 2), angle positions * inv_freq
// [D / 2] float; cos and sin times `scale`. Computed in fp32, returned in x's type. Rotating by a difference of
// positions moves what is already rotated.
at::Tensor Rotate(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& inv_freq, double scale);

}  // namespace spotlight::training
