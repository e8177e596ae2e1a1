#include "training/sequence_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/tensor.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/GradMode.h>

#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/device.h"
#include "engine/model/fp8_matrix.h"
#include "training/torch_errors.h"

namespace spotlight::training {
namespace {

// Splits the fused projections by head, rotates, and hands the rest over.
class CallbackAttention : public engine::Attention {
 public:
  CallbackAttention(const engine::ModelConfig& config, at::Device device, bool e4m3_cache,
                    const AttentionFunction& attend)
      : config_(config),
        e4m3_cache_(e4m3_cache),
        attend_(attend),
        inv_freq_(at::tensor(config.inv_freq, at::kFloat).to(device)) {}

  absl::StatusOr<at::Tensor> Forward(int32_t layer, const at::Tensor& qkv, const engine::LayerHash*,
                                     const engine::StepTensors& step, engine::RetrievalSeconds*) override {
    const int64_t tokens = qkv.size(0), q_heads = config_.num_q_heads, kv_heads = config_.num_kv_heads;
    const at::Tensor heads = qkv.view({tokens, q_heads + 2 * kv_heads, config_.head_dim}).transpose(0, 1);
    const at::Tensor rotated =
        Rotate(heads.narrow(0, 0, q_heads + kv_heads), step.positions, inv_freq_, config_.rope_scale);
    AttentionInput input;
    input.layer = layer;
    input.q = rotated.narrow(0, 0, q_heads);
    input.k = Cached(rotated.narrow(0, q_heads, kv_heads));
    input.v = Cached(heads.narrow(0, q_heads + kv_heads, kv_heads).contiguous());
    auto out = attend_(input);
    if (!out.ok()) return out.status();
    return out->transpose(0, 1).reshape({tokens, q_heads * config_.head_dim});
  }

 private:
  // What a cache makes of keys or values [Hkv, T, D].
  at::Tensor Cached(const at::Tensor& x) const {
    if (!e4m3_cache_) return x;
    const engine::Fp8Matrix rounded = engine::RoundToFp8(x.reshape({-1, config_.head_dim}).contiguous());
    return engine::Widen(rounded, x.scalar_type()).view(x.sizes());
  }

  const engine::ModelConfig& config_;
  const bool e4m3_cache_;
  const AttentionFunction& attend_;
  const at::Tensor inv_freq_;
};

absl::StatusOr<std::unique_ptr<engine::Tokenizer>> LoadTokenizer(const SequenceModelOptions& options) {
  const std::string path = absl::StrCat(options.model_folder, "/tokenizer.json");
  std::error_code ignored;
  if (options.random_weights_seed.has_value() && !std::filesystem::exists(path, ignored)) {
    return std::unique_ptr<engine::Tokenizer>();
  }
  return engine::Tokenizer::Load(path);
}

}  // namespace

at::Tensor Rotate(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& inv_freq, double scale) {
  const at::Tensor angle = at::outer(positions.to(at::kFloat), inv_freq);  // [T, D / 2]
  const at::Tensor cos = angle.cos() * scale, sin = angle.sin() * scale;
  const int64_t half = x.size(-1) / 2;
  const at::Tensor first = x.narrow(-1, 0, half).to(at::kFloat), second = x.narrow(-1, half, half).to(at::kFloat);
  return at::cat({first * cos - second * sin, second * cos + first * sin}, -1).to(x.scalar_type());
}

at::Tensor DenseAttention(const AttentionInput& input) {
  const bool widen = input.q.is_cpu() && input.q.scalar_type() != at::kFloat;
  const auto batch = [&](const at::Tensor& x) { return (widen ? x.to(at::kFloat) : x).unsqueeze(0); };
  return at::scaled_dot_product_attention(batch(input.q), batch(input.k), batch(input.v), /*attn_mask=*/{},
                                          /*dropout_p=*/0.0, /*is_causal=*/true, /*scale=*/{}, /*enable_gqa=*/true)
      .squeeze(0)
      .to(input.q.scalar_type());
}

absl::StatusOr<std::unique_ptr<SequenceModel>> SequenceModel::Load(const SequenceModelOptions& options) {
  std::unique_ptr<SequenceModel> model(new SequenceModel());
  const absl::Status status = CatchTorch("loading the model", [&]() -> absl::Status {
    const c10::AutoGradMode no_autograd(false);
    auto device = engine::ResolveDevice(options.device);
    if (!device.ok()) return device.status();
    model->device_ = *device;
    model->dtype_ = engine::ResolveDType(options.dtype, *device);
    model->e4m3_cache_ = options.kv_cache_dtype == engine::KvCacheDType::kFp8;
    if (model->e4m3_cache_ && device->is_cuda() && model->dtype_ != at::kBFloat16) {
      return absl::InvalidArgumentError("kv_cache_dtype: fp8 on a GPU needs bf16, not fp32");
    }
    auto config = engine::LoadModelConfig(options.model_folder);
    if (!config.ok()) return config.status();
    model->config_ = *std::move(config);
    auto tokenizer = LoadTokenizer(options);
    if (!tokenizer.ok()) return tokenizer.status();
    model->tokenizer_ = *std::move(tokenizer);
    auto weights = engine::OpenModelWeights(options.model_folder, model->config_, options.random_weights_seed);
    if (!weights.ok()) return weights.status();
    model->weights_ = *std::move(weights);
    auto decoder = engine::Decoder::Load(model->config_, model->weights_->source.get(), model->dtype_, *device,
                                         options.quantization);
    if (!decoder.ok()) return decoder.status();
    model->decoder_ = *std::move(decoder);
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return model;
}

absl::StatusOr<at::Tensor> SequenceModel::Run(absl::Span<const int32_t> token_ids, const AttentionFunction& attend,
                                              int64_t begin, int64_t end, int64_t first_position) const {
  const auto tokens = static_cast<int64_t>(token_ids.size());
  if (begin < 0 || begin >= end || end > tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("states of tokens [", begin, ", ", end, ") asked for in a sequence of ", tokens));
  }
  if (first_position < 0) {
    return absl::InvalidArgumentError(absl::StrCat("first position: must be at least 0, got ", first_position));
  }
  for (const int32_t id : token_ids) {
    if (id < 0 || id >= config_.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is outside the vocabulary of ", config_.vocab_size));
    }
  }
  at::Tensor states;
  const absl::Status status = CatchTorch("running the model", [&] {
    const c10::AutoGradMode no_autograd(false);
    const c10::OptionalDeviceGuard on_device(device_);
    engine::StepTensors step;
    step.token_ids =
        at::tensor(at::ArrayRef<int32_t>(token_ids.data(), token_ids.size()), at::TensorOptions().dtype(at::kInt))
            .to(device_);
    step.positions =
        at::arange(first_position, first_position + tokens, at::TensorOptions().dtype(at::kInt).device(device_));
    CallbackAttention attention(config_, device_, e4m3_cache_, attend);
    auto result =
        decoder_->HiddenStates(step, at::arange(begin, end, at::TensorOptions().dtype(at::kLong).device(device_)), {},
                               &attention, /*seconds=*/nullptr);
    if (result.ok()) states = *std::move(result);
    return result.status();
  });
  if (!status.ok()) return status;
  return states;
}

}  // namespace spotlight::training
