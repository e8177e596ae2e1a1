// A cache that is filled at random, for measuring: every slot of the step is written, no other is, and codes are those
// of the keys that lie there, by the encoder's specification in double.
#include <ATen/ops/from_blob.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <vector>

#include "engine/ops/spotlight_attention.h"
#include "kernels/reference/encode_and_append.h"

namespace spotlight::engine {
namespace {

#ifdef TEST_ON_CUDA
constexpr at::DeviceType kTestDevice = at::kCUDA;
#else
constexpr at::DeviceType kTestDevice = at::kCPU;
#endif

constexpr int32_t kP = kernels::kPageTokens;
constexpr int32_t kQHeads = 6, kKvHeads = 2, kDim = 64, kHidden = 16, kWords = 4, kBits = 32 * kWords;
constexpr int32_t kPages = 6, kTokens = 2 * kP + 22;
constexpr int32_t kRowPages[] = {4, 1, 3};  // of the step's one row
constexpr int32_t kDenseLayer = 0, kHashedLayers[] = {1, 2}, kNumLayers = 3;
constexpr float kUntouched = 1000;  // no draw comes near it
constexpr int32_t kUntouchedCode = 0x5A5A5A5A;
// Of the encoder's output: closer to zero than this its sign may be either, for kernels sum in fp32.
constexpr double kUnsure = 1e-3;

// An MLP with skip of every KV head, on the host and on the device.
class Encoder {
 public:
  explicit Encoder(int64_t in) {
    w1_ = Add(at::randn({kKvHeads, in, kHidden}).div_(8), &weights_.w1, &host_.w1);
    b1_ = Add(at::randn({kKvHeads, kHidden}), &weights_.b1, &host_.b1);
    w2_ = Add(at::randn({kKvHeads, kHidden, kBits}), &weights_.w2, &host_.w2);
    b2_ = Add(at::randn({kKvHeads, kBits}), &weights_.b2, &host_.b2);
    skip_ = Add(at::randn({kKvHeads, in, kBits}).div_(8), &weights_.skip, &host_.skip);
    weights_.hidden = host_.hidden = kHidden;
  }
  const kernels::EncoderWeights& weights() const { return weights_; }
  const kernels::EncoderWeights& host() const { return host_; }

 private:
  struct Matrix {
    at::Tensor host, device;
  };
  static Matrix Add(const at::Tensor& values, const void** device, const void** host) {
    Matrix matrix{values, values.to(at::Device(kTestDevice))};
    *host = matrix.host.const_data_ptr();
    *device = matrix.device.const_data_ptr();
    return matrix;
  }
  Matrix w1_, b1_, w2_, b2_, skip_;
  kernels::EncoderWeights weights_, host_;
};

class AppendRandomTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  AppendRandomTest() : key_(kDim), query_(kQHeads / kKvHeads * kDim) {
    hash_.weights.hash_words = kWords;
    hash_.weights.key = key_.weights();
    hash_.weights.query = query_.weights();
    cache_ = std::make_unique<KvCache>(*KvCache::Create(
        {kNumLayers, kKvHeads, kDim, kWords, {kHashedLayers[0], kHashedLayers[1]}}, kPages, GetParam(), kTestDevice));
    std::vector<float> inv_freq;
    for (int32_t i = 0; i < kDim / 2; ++i) inv_freq.push_back(std::pow(1e4f, -2.0f * i / kDim));
    AttentionOptions options;
    options.max_chunk_tokens = options.max_context = kPages * kP;
    attention_ = std::make_unique<SpotlightAttention>(*SpotlightAttention::Create(
        {kQHeads, kKvHeads, kDim}, options, inv_freq, 1.0f, cache_.get(), GetParam(), kTestDevice));
    for (int32_t layer = 0; layer < kNumLayers; ++layer) {
      at::Tensor kv = cache_->kv(layer);
      kv.fill_(kUntouched);
    }
    for (const int32_t layer : kHashedLayers) {
      OnDevice(cache_->layer(layer).codes, kWords).fill_(kUntouchedCode);
      OnDevice(cache_->layer(layer).prefix, 1).fill_(kUntouchedCode);
    }
    for (int32_t position = 0; position < kTokens; ++position) {
      batch_.token_ids.push_back(7);
      batch_.positions.push_back(position);
      batch_.slots.push_back(int64_t{kRowPages[position / kP]} * kP + position % kP);
    }
    batch_.num_rows = 1;
    step_.batch = &batch_;
    step_.token_ids = at::tensor(batch_.token_ids, at::kInt).to(at::Device(kTestDevice));
    step_.positions = at::tensor(batch_.positions, at::kInt).to(at::Device(kTestDevice));
    step_.slots = at::tensor(batch_.slots, at::kLong).to(at::Device(kTestDevice));
  }

  void Append() {
    for (int32_t layer = 0; layer < kNumLayers; ++layer) {
      const absl::Status status =
          attention_->AppendRandom(layer, layer == kDenseLayer ? nullptr : &hash_, step_, GetParam());
      ASSERT_TRUE(status.ok()) << status;
    }
  }

  // [pages, Hkv, P, words]
  static at::Tensor OnDevice(uint32_t* codes, int64_t words) {
    return at::from_blob(codes, {kPages, kKvHeads, kP, words}, at::TensorOptions().dtype(at::kInt).device(kTestDevice));
  }
  static at::Tensor OnHost(uint32_t* codes, int64_t words) { return OnDevice(codes, words).to(at::kCPU); }
  // [pages, Hkv, P, 2, D] float
  at::Tensor Kv(int32_t layer) const { return cache_->kv(layer).to(at::kCPU).to(at::kFloat).contiguous(); }

  bool Written(int64_t slot) const {
    return std::find(batch_.slots.begin(), batch_.slots.end(), slot) != batch_.slots.end();
  }
  // Of a [pages, Hkv, P, ...] tensor with `width` elements to a head's slot.
  static int64_t Place(int64_t slot, int64_t head, int64_t width) {
    return ((slot / kP * kKvHeads + head) * kP + slot % kP) * width;
  }

  const c10::InferenceMode no_autograd_;
  Encoder key_, query_;
  LayerHash hash_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<SpotlightAttention> attention_;
  Batch batch_;
  StepTensors step_;
};

TEST_P(AppendRandomTest, DrawsEveryKeyAndValueOfTheStepAndTouchesNothingElse) {
  Append();
  std::set<std::vector<float>> distinct;
  for (int32_t layer = 0; layer < kNumLayers; ++layer) {
    const at::Tensor kv = Kv(layer);
    const float* const values = kv.const_data_ptr<float>();
    double sum[2] = {0, 0}, squares[2] = {0, 0};  // of keys and values
    for (int64_t slot = 0; slot < int64_t{kPages} * kP; ++slot) {
      for (int64_t head = 0; head < kKvHeads; ++head) {
        const float* const token = values + Place(slot, head, 2 * kDim);
        if (!Written(slot)) {
          ASSERT_EQ(std::count(token, token + 2 * kDim, kUntouched), 2 * kDim) << layer << " " << slot;
          continue;
        }
        for (int32_t d = 0; d < 2 * kDim; ++d) {
          ASSERT_LT(std::abs(token[d]), 7) << layer << " " << slot << " " << d;
          sum[d / kDim] += token[d];
          squares[d / kDim] += double{token[d]} * token[d];
        }
        distinct.emplace(token, token + kDim);
        distinct.emplace(token + kDim, token + 2 * kDim);
      }
    }
    constexpr double kDraws = double{1} * kTokens * kKvHeads * kDim;  // 19,200: the bounds are of five deviations
    for (int which = 0; which < 2; ++which) {
      EXPECT_NEAR(sum[which] / kDraws, 0, 5 / std::sqrt(kDraws)) << layer << " " << which;
      EXPECT_NEAR(squares[which] / kDraws, 1, 5 * std::sqrt(2 / kDraws)) << layer << " " << which;
    }
  }
  EXPECT_EQ(distinct.size(), size_t{2} * kNumLayers * kTokens * kKvHeads) << "no two are alike";
}

TEST_P(AppendRandomTest, CodesAreThoseOfTheKeysInTheCache) {
  Append();
  EXPECT_EQ(cache_->layer(kDenseLayer).codes, nullptr);
  int64_t unsure = 0, set = 0;
  for (const int32_t layer : kHashedLayers) {
    const at::Tensor kv = Kv(layer), codes = OnHost(cache_->layer(layer).codes, kWords),
                     prefixes = OnHost(cache_->layer(layer).prefix, 1);
    for (int64_t slot = 0; slot < int64_t{kPages} * kP; ++slot) {
      for (int32_t head = 0; head < kKvHeads; ++head) {
        const int32_t* const code = codes.const_data_ptr<int32_t>() + Place(slot, head, kWords);
        const int32_t prefix = prefixes.const_data_ptr<int32_t>()[Place(slot, head, 1)];
        ASSERT_EQ(prefix, code[0]) << layer << " " << slot;
        if (!Written(slot)) {
          ASSERT_EQ(std::count(code, code + kWords, kUntouchedCode), kWords) << layer << " " << slot;
          continue;
        }
        const float* const key = kv.const_data_ptr<float>() + Place(slot, head, 2 * kDim);
        const std::vector<double> h = kernels::reference::Encode(key_.host(), kernels::DType::kF32, kWords, head,
                                                                 std::vector<double>(key, key + kDim));
        for (int32_t b = 0; b < kBits; ++b) {
          const bool bit = (static_cast<uint32_t>(code[b / 32]) >> b % 32 & 1u) != 0;
          set += bit ? 1 : 0;
          if (std::abs(h[b]) < kUnsure) {
            ++unsure;
          } else {
            ASSERT_EQ(bit, h[b] >= 0) << layer << " " << slot << " " << head << " " << b << ": " << h[b];
          }
        }
      }
    }
  }
  constexpr int64_t kAll = int64_t{2} * kTokens * kKvHeads * kBits;
  EXPECT_LT(unsure, kAll / 500);
  EXPECT_GT(set, kAll / 4);
  EXPECT_LT(set, kAll * 3 / 4);
}

INSTANTIATE_TEST_SUITE_P(, AppendRandomTest, ::testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& info) { return info.param == at::kFloat ? "Fp32" : "Bf16"; });

}  // namespace
}  // namespace spotlight::engine
