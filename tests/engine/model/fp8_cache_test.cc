// A model on a KV cache in fp8 against the same model in double, whose keys and values are rounded by LibTorch; on the
// CPU, and near it on a GPU.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "engine/load.h"
#include "tests/testing/model_harness.h"

namespace spotlight::engine {
namespace {

using spotlight::testing::HarnessOptions;
using spotlight::testing::ModelHarness;

constexpr char kFolder[] = "tests/testdata/tiny-llama";

// Llama by its definition, of one KV head, in double but for what the cache holds.
class DoubleModel {
 public:
  // cache: what a row of keys or values becomes.
  using Cache = at::Tensor (*)(const at::Tensor& rows);
  DoubleModel() : config_(*LoadModelConfig(kFolder)), checkpoint_(*Checkpoint::Open(kFolder)) {
    source_ = CheckpointTensors(checkpoint_.get());
  }

  // Of the last token.
  at::Tensor Logits(const std::vector<int32_t>& token_ids, Cache cache) const {
    const int64_t hidden = config_.hidden_size, dim = config_.head_dim, q_width = config_.num_q_heads * dim;
    const at::Tensor embedding = Weight("model.embed_tokens.weight", {config_.vocab_size, hidden});
    const at::Tensor ids = at::tensor(token_ids, at::kLong);
    at::Tensor x = embedding.index({ids});
    const at::Tensor positions = at::arange(ids.size(0), at::kFloat);
    // The angle is fp32's, as checkpoints are trained with.
    const at::Tensor angles = at::outer(positions, at::tensor(config_.inv_freq, at::kFloat)).to(at::kDouble);
    for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
      const std::string name = "model.layers." + std::to_string(layer) + ".";
      const auto project = [&](const at::Tensor& in, const std::string& what, int64_t out) {
        return at::matmul(in, Weight(name + what + ".weight", {out, in.size(-1)}).t());
      };
      const at::Tensor normed = Normed(x, name + "input_layernorm.weight");
      const at::Tensor k = cache(Rotated(project(normed, "self_attn.k_proj", dim), angles));
      const at::Tensor v = cache(project(normed, "self_attn.v_proj", dim));
      const at::Tensor q = project(normed, "self_attn.q_proj", q_width);
      std::vector<at::Tensor> heads;
      const at::Tensor later = at::ones({ids.size(0), ids.size(0)}, at::kBool).triu(1);
      for (int64_t head = 0; head < config_.num_q_heads; ++head) {
        const at::Tensor rotated = Rotated(q.narrow(1, head * dim, dim), angles);
        const at::Tensor logits = at::matmul(rotated, k.t()) / std::sqrt(static_cast<double>(dim));
        heads.push_back(
            at::matmul(at::softmax(logits.masked_fill(later, -std::numeric_limits<double>::infinity()), -1), v));
      }
      x = x + project(at::cat(heads, 1), "self_attn.o_proj", hidden);
      const at::Tensor second = Normed(x, name + "post_attention_layernorm.weight");
      const at::Tensor gated = at::silu(project(second, "mlp.gate_proj", config_.intermediate_size)) *
                               project(second, "mlp.up_proj", config_.intermediate_size);
      x = x + project(gated, "mlp.down_proj", hidden);
    }
    const at::Tensor last = Normed(x.narrow(0, ids.size(0) - 1, 1), "model.norm.weight");
    return at::matmul(last, embedding.t())[0];
  }

 private:
  at::Tensor Weight(const std::string& name, const std::vector<int64_t>& shape) const {
    const StoredTensor stored = *source_->Find(name, shape, at::kFloat);
    const at::Tensor tensor = at::empty(shape, stored.dtype);
    source_->Read(stored, 0, stored.num_elements, tensor.data_ptr());
    return tensor.to(at::kDouble);
  }
  at::Tensor Normed(const at::Tensor& x, const std::string& weight) const {
    return x * at::rsqrt((x * x).mean(-1, /*keepdim=*/true) + double{config_.rms_norm_eps}) *
           Weight(weight, {config_.hidden_size});
  }
  static at::Tensor Rotated(const at::Tensor& x, const at::Tensor& angles) {
    const int64_t half = x.size(1) / 2;
    const at::Tensor a = x.narrow(1, 0, half), b = x.narrow(1, half, half);
    return at::cat({a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()}, 1);
  }

  ModelConfig config_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<TensorSource> source_;
};

at::Tensor Exact(const at::Tensor& rows) {
  return rows;
}

template <at::ScalarType dtype>
at::Tensor InE4m3(const at::Tensor& rows) {
  const at::Tensor values = rows.to(dtype).to(at::kFloat);
  const at::Tensor scale = std::get<0>(values.abs().max(1, /*keepdim=*/true)) / 448;
  return (values / scale).to(at::kFloat8_e4m3fn).to(at::kDouble) * scale.to(at::kDouble);
}

std::vector<int32_t> Prompt(int32_t tokens) {
  std::vector<int32_t> prompt;
  for (int32_t t = 0; t < tokens; ++t) prompt.push_back(5 + t * 37 % 400);
  return prompt;
}

// The same through the engine: the last token is decoded.
at::Tensor EngineLogits(const HarnessOptions& options, std::vector<int32_t> token_ids, int32_t num_select = 0) {
  auto harness = ModelHarness::Create(kFolder, options);
  EXPECT_TRUE(harness.ok()) << harness.status();
  if (!harness.ok()) return {};
  const int32_t last = token_ids.back();
  token_ids.pop_back();
  auto logits = (*harness)->Prefill(token_ids);
  EXPECT_TRUE(logits.ok()) << logits.status();
  if (!logits.ok()) return {};
  logits = (*harness)->Decode(last, num_select);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return logits.ok() ? at::tensor(*logits, at::kDouble) : at::Tensor();
}

double Distance(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

// bf16's roundings cross those of e4m3 by the hundred, and weights at random make much of it: what can be said is that
// the logits are no further from the exact ones than rounding keys and values takes them, and as far from those of a
// cache that does not round.
void ExpectNoFurtherThanRoundingTakes(at::Device device) {
  const c10::InferenceMode no_autograd;
  const DoubleModel model;
  for (const int32_t tokens : {13, 201, 700}) {
    HarnessOptions options;
    options.device = device;
    options.dtype = at::kBFloat16;
    const at::Tensor exact = model.Logits(Prompt(tokens), Exact);
    const at::Tensor unrounded = EngineLogits(options, Prompt(tokens));
    const double plain = Distance(unrounded, exact);
    const double rounded = Distance(model.Logits(Prompt(tokens), InE4m3<at::kBFloat16>), exact);
    options.e4m3_cache = true;
    const at::Tensor logits = EngineLogits(options, Prompt(tokens));
    EXPECT_LT(Distance(logits, exact), 1.3 * rounded + plain) << tokens << ": " << rounded << ", " << plain;
    EXPECT_GT(Distance(logits, unrounded), 0.5 * rounded) << tokens << ": " << rounded;
  }
}

#ifdef TEST_ON_CUDA
TEST(Fp8CacheTest, IsNoFurtherInBf16ThanRoundingTakesIt) {
  ExpectNoFurtherThanRoundingTakes(at::Device(at::kCUDA, 0));
}

TEST(Fp8CacheLoadTest, RefusesAnotherTypeThanBf16) {
  LoadOptions options;
  options.model_folder = kFolder;
  options.device = "cuda:0";
  options.dtype = DTypeChoice::kFp32;
  options.kv_cache_dtype = KvCacheDType::kFp8;
  const auto loaded = LoadEngine(options, nullptr);
  EXPECT_EQ(loaded.status().message(), "kv_cache_dtype: fp8 on a GPU needs bf16, not fp32");
}
#else
TEST(Fp8CacheTest, GivesTheLogitsOfAModelInDouble) {
  const c10::InferenceMode no_autograd;
  const DoubleModel model;
  for (const int32_t tokens : {13, 201, 700}) {
    HarnessOptions options;
    const at::Tensor exact = model.Logits(Prompt(tokens), Exact);
    ASSERT_LT(Distance(EngineLogits(options, Prompt(tokens)), exact), 1e-5) << tokens;
    options.e4m3_cache = true;
    const at::Tensor rounded = model.Logits(Prompt(tokens), InE4m3<at::kFloat>);
    EXPECT_GT(Distance(rounded, exact), 0.05) << tokens;
    // A rounding of fp32 may, rarely, cross one of e4m3's.
    EXPECT_LT(Distance(EngineLogits(options, Prompt(tokens)), rounded), 0.01) << tokens;
  }
}

TEST(Fp8CacheTest, IsNoFurtherInBf16ThanRoundingTakesIt) {
  ExpectNoFurtherThanRoundingTakes(at::kCPU);
}

// All of the candidates: codes and selections do not matter.
TEST(Fp8CacheTest, SparseRowsReadTheSameKeysAndValues) {
  const c10::InferenceMode no_autograd;
  HarnessOptions options;
  options.e4m3_cache = true;
  const at::Tensor dense = EngineLogits(options, Prompt(300));
  options.hash_path = ::testing::TempDir() + "/hash.safetensors";
  ASSERT_TRUE(testing::WriteUntrainedHash(kFolder, options.hash_path).ok());
  EXPECT_LT(Distance(EngineLogits(options, Prompt(300), /*num_select=*/1000), dense), 1e-5);
  EXPECT_GT(Distance(EngineLogits(options, Prompt(300), /*num_select=*/64), dense), 1e-4);
}

TEST(Fp8CacheLoadTest, TellsWhatACpuServes) {
  LoadOptions options;
  options.model_folder = kFolder;
  options.device = "cpu";
  options.dtype = DTypeChoice::kFp32;
  options.kv_cache_dtype = KvCacheDType::kFp8;
  options.max_tokens_in_cache = 1024;
  options.max_warm_up_seconds = 0;
  const auto loaded = LoadEngine(options, nullptr);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->engine->model().kv_cache_dtype, "fp8");
  EXPECT_THAT(loaded->notes, ::testing::Contains("KV cache: fp8, a scale for each token and head: 544 bytes a token "
                                                 "instead of 2048, codes not counted"));
}
#endif

}  // namespace
}  // namespace spotlight::engine
