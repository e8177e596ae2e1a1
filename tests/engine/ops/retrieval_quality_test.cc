// What a sampled step measures, against sums in double over the rows' own queries, the cache's keys and values and the
// hash's matrices: nothing of the kernels, not even the selection.
#include <ATen/Context.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "engine/ops/spotlight_attention.h"
#include "tests/testing/step_tensors.h"

namespace spotlight::engine {
namespace {

#ifdef TEST_ON_CUDA
constexpr at::DeviceType kTestDevice = at::kCUDA;
#else
constexpr at::DeviceType kTestDevice = at::kCPU;
#endif

constexpr int32_t kP = kernels::kPageTokens;
constexpr int32_t kNumQHeads = 6, kNumKvHeads = 2, kGroup = 3, kHeadDim = 64;
constexpr int32_t kHashBits = 128, kPlanes = 4;
constexpr float kPlaneStep = 0.335f;
constexpr int32_t kNumLayers = 2, kPagesPerRow = 10, kNumSelect = 70;
const std::vector<int32_t> kContext = {300, 420, 555};  // one dense row, two sparse ones

std::vector<double> Doubles(const at::Tensor& tensor) {
  const at::Tensor host = tensor.to(at::kCPU).to(at::kDouble).contiguous();
  return {host.const_data_ptr<double>(), host.const_data_ptr<double>() + host.numel()};
}

// A layer's attention with a cache of random tokens for three rows, and one decode step on it.
class QualityStep {
 public:
  explicit QualityStep(at::ScalarType dtype, bool prefilter = false)
      : options_(at::TensorOptions().dtype(dtype).device(kTestDevice)) {
    for (int32_t i = 0; i < kHeadDim / 2; ++i) inv_freq_.push_back(std::pow(1e4f, -2.0f * i / kHeadDim));
    cache_ = std::make_unique<KvCache>(*KvCache::Create({kNumLayers, kNumKvHeads, kHeadDim, kHashBits / 32, {0, 1}},
                                                        kPagesPerRow * 3, dtype, kTestDevice));
    AttentionOptions attention_options;
    attention_options.measure_quality = true;
    attention_options.prefilter = prefilter;
    attention_options.max_decode_rows = 3;
    attention_options.max_chunk_tokens = attention_options.max_context = kPagesPerRow * kP;
    attention_ = std::make_unique<SpotlightAttention>(*SpotlightAttention::Create(
        {kNumQHeads, kNumKvHeads, kHeadDim}, attention_options, inv_freq_, 1.0f, cache_.get(), dtype, kTestDevice));
    // The linear encoders of nearby query and key: codes that select better than chance.
    const auto on_device = at::TensorOptions().dtype(at::kFloat).device(kTestDevice);
    key_skip_ = at::randn({kNumKvHeads, kHeadDim, kHashBits}, on_device);
    query_skip_ = key_skip_.repeat({1, kGroup, 1}).contiguous();
    hash_.weights.hash_words = kHashBits / 32;
    hash_.weights.num_planes = kPlanes;
    hash_.weights.plane_step = kPlaneStep;
    hash_.weights.key.skip = key_skip_.data_ptr();
    hash_.weights.query.skip = query_skip_.data_ptr();
    bias_ = at::randn({kNumKvHeads, kHashBits}, on_device);
    hash_.weights.key.b2 = hash_.weights.query.b2 = bias_.data_ptr();
    for (int32_t row = 0; row < 3; ++row) Prefill(row);
    for (int32_t layer = 0; layer < kNumLayers; ++layer) decode_qkv_.push_back(RandomQkv(3));
  }

  // The rows' outputs in every layer; rows from 1 on are sparse.
  std::vector<at::Tensor> Decode(absl::optional<QualityTarget> target) {
    Batch batch;
    batch.num_dense_rows = 1;
    batch.num_decode_rows = batch.num_rows = 3;
    batch.num_select = {0, kNumSelect, kNumSelect};
    batch.quality = target;
    batch.query_begin = {0};
    for (int32_t row = 0; row < 3; ++row) Append(row, kContext[row] - 1, 1, &batch);
    std::vector<at::Tensor> outputs = Forward(batch, decode_qkv_);
    auto pending = attention_->MeasureQuality(batch, hash_);
    EXPECT_TRUE(pending.ok()) << pending.status();
    pending_ = pending.ok() ? *std::move(pending) : nullptr;
    return outputs;
  }

  // What the latest Decode began to measure; null: nothing.
  const PendingQuality* pending() const { return pending_.get(); }

  RetrievalQuality BruteForce(QualityTarget target) const;

 private:
  at::Tensor RandomQkv(int64_t tokens) const {
    return at::randn({tokens, (kNumQHeads + 2 * kNumKvHeads) * kHeadDim}, options_).mul_(1.5);
  }
  static int32_t PageOf(int32_t row, int32_t index) { return (row + 3 * (kPagesPerRow - 1 - index)); }

  static void Append(int32_t row, int32_t begin, int32_t count, Batch* batch) {
    for (int32_t position = begin; position < begin + count; ++position) {
      batch->token_ids.push_back(0);
      batch->positions.push_back(position);
      batch->slots.push_back(int64_t{PageOf(row, position / kP)} * kP + position % kP);
    }
    batch->query_begin.push_back(batch->num_tokens());
    batch->context_len.push_back(begin + count);
    for (int32_t page = 0; page < kPagesPerRow; ++page) batch->page_table.push_back(PageOf(row, page));
    batch->max_pages = kPagesPerRow;
  }

  void Prefill(int32_t row) {
    Batch batch;
    batch.num_rows = 1;
    batch.num_select = {0};
    batch.query_begin = {0};
    Append(row, 0, kContext[row] - 1, &batch);
    std::vector<at::Tensor> qkv;
    for (int32_t layer = 0; layer < kNumLayers; ++layer) qkv.push_back(RandomQkv(kContext[row] - 1));
    Forward(batch, qkv);
  }

  std::vector<at::Tensor> Forward(const Batch& batch, const std::vector<at::Tensor>& qkv) {
    const StepTensors step = testing::StepTensorsOf(batch, at::Device(kTestDevice));
    std::vector<at::Tensor> outputs;
    for (int32_t layer = 0; layer < kNumLayers; ++layer) {
      auto out = attention_->Forward(layer, qkv[layer], &hash_, step, nullptr);
      EXPECT_TRUE(out.ok()) << out.status();
      if (out.ok()) outputs.push_back(out->to(at::kCPU));
    }
    return outputs;
  }

  // The row's rotated query heads, rounded as the pages are.
  std::vector<double> RotatedQuery(QualityTarget target) const {
    const std::vector<double> raw = Doubles(decode_qkv_[target.layer][target.row]);
    at::Tensor q = at::zeros({kNumQHeads * kHeadDim}, at::kDouble);
    double* const out = q.data_ptr<double>();
    for (int32_t head = 0; head < kNumQHeads; ++head) {
      for (int32_t i = 0; i < kHeadDim / 2; ++i) {
        const double angle = (kContext[target.row] - 1) * double{inv_freq_[i]};
        const int32_t low = head * kHeadDim + i, high = low + kHeadDim / 2;
        out[low] = raw[low] * std::cos(angle) - raw[high] * std::sin(angle);
        out[high] = raw[high] * std::cos(angle) + raw[low] * std::sin(angle);
      }
    }
    return Doubles(q.to(c10::typeMetaToScalarType(options_.dtype())));
  }

  at::TensorOptions options_;
  std::vector<float> inv_freq_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<SpotlightAttention> attention_;
  std::unique_ptr<PendingQuality> pending_;
  at::Tensor key_skip_, query_skip_, bias_;
  LayerHash hash_;
  std::vector<at::Tensor> decode_qkv_;  // by layer
};

// bias[bit] + sum_i x[i] * matrix[i][bit], matrix [inputs, kHashBits].
std::vector<double> Encode(const double* x, int32_t inputs, const double* matrix, const double* bias) {
  std::vector<double> h(bias, bias + kHashBits);
  for (int32_t i = 0; i < inputs; ++i) {
    for (int32_t bit = 0; bit < kHashBits; ++bit) h[bit] += x[i] * matrix[i * kHashBits + bit];
  }
  return h;
}

// The `count` tokens of [begin, end) with the largest values; of equal ones the first.
std::set<int32_t> Largest(const std::vector<double>& values, int32_t begin, int32_t end, int32_t count) {
  std::vector<int32_t> tokens(end - begin);
  std::iota(tokens.begin(), tokens.end(), begin);
  std::stable_sort(tokens.begin(), tokens.end(), [&](int32_t a, int32_t b) { return values[a] > values[b]; });
  return {tokens.begin(), tokens.begin() + count};
}

RetrievalQuality QualityStep::BruteForce(QualityTarget target) const {
  const int32_t context = kContext[target.row], begin = kernels::kSinkTokens, end = context - kernels::kRecentTokens;
  const std::vector<double> q = RotatedQuery(target), kv = Doubles(cache_->kv(target.layer));
  const std::vector<double> key_matrix = Doubles(key_skip_), query_matrix = Doubles(query_skip_);
  const std::vector<double> bias = Doubles(bias_);
  RetrievalQuality sum;
  for (int32_t head = 0; head < kNumKvHeads; ++head) {
    const auto entry = [&](int32_t token) {
      const int64_t page = PageOf(target.row, token / kP);
      return kv.data() + ((page * kNumKvHeads + head) * kP + token % kP) * 2 * kHeadDim;
    };
    const double* const group_q = q.data() + head * kGroup * kHeadDim;
    const std::vector<double> w =
        Encode(group_q, kGroup * kHeadDim, query_matrix.data() + head * kGroup * kHeadDim * kHashBits,
               bias.data() + head * kHashBits);
    double squares = 0;
    for (const double x : w) squares += x * x;
    const double unit = kPlaneStep * std::sqrt(squares / kHashBits);
    std::vector<double> score(context), mass(context, 0.0);
    for (int32_t token = 0; token < context; ++token) {
      const std::vector<double> h = Encode(entry(token), kHeadDim, key_matrix.data() + head * kHeadDim * kHashBits,
                                           bias.data() + head * kHashBits);
      for (int32_t bit = 0; bit < kHashBits; ++bit) {
        const double level = std::clamp(2 * std::floor(w[bit] / unit) + 1, -15.0, 15.0);
        score[token] += h[bit] >= 0 ? level : -level;
      }
    }
    std::vector<std::vector<double>> weights(kGroup, std::vector<double>(context));
    for (int32_t g = 0; g < kGroup; ++g) {
      double total = 0;
      for (int32_t token = 0; token < context; ++token) {
        double dot = 0;
        for (int32_t d = 0; d < kHeadDim; ++d) dot += group_q[g * kHeadDim + d] * entry(token)[d];
        total += weights[g][token] = std::exp(dot / 8);
      }
      for (int32_t token = 0; token < context; ++token) mass[token] += weights[g][token] / total;
    }

    const std::set<int32_t> selected = Largest(score, begin, end, kNumSelect);
    const std::set<int32_t> best = Largest(mass, begin, end, kNumSelect);
    std::vector<int32_t> both;
    std::set_intersection(selected.begin(), selected.end(), best.begin(), best.end(), std::back_inserter(both));
    const auto attended = [&](int32_t token) { return token < begin || token >= end || selected.count(token) > 0; };
    double attended_mass = 0, error_squares = 0, dense_squares = 0;
    for (int32_t token = 0; token < context; ++token) attended_mass += attended(token) ? mass[token] : 0;
    for (int32_t g = 0; g < kGroup; ++g) {
      double all_weight = 0, sparse_weight = 0;
      std::vector<double> all(kHeadDim, 0.0), sparse(kHeadDim, 0.0);
      for (int32_t token = 0; token < context; ++token) {
        const double weight = weights[g][token], share = attended(token) ? weight : 0;
        all_weight += weight;
        sparse_weight += share;
        for (int32_t d = 0; d < kHeadDim; ++d) {
          all[d] += weight * entry(token)[kHeadDim + d];
          sparse[d] += share * entry(token)[kHeadDim + d];
        }
      }
      for (int32_t d = 0; d < kHeadDim; ++d) {
        const double dense = all[d] / all_weight;
        error_squares += std::pow(sparse[d] / sparse_weight - dense, 2);
        dense_squares += dense * dense;
      }
    }
    const auto hits = static_cast<float>(both.size());
    sum.recall += hits / kNumSelect;
    sum.iou += hits / (2 * kNumSelect - hits);
    sum.attention_mass += static_cast<float>(attended_mass / kGroup);
    sum.output_error += static_cast<float>(std::sqrt(error_squares / dense_squares));
  }
  return {sum.recall / kNumKvHeads, sum.iou / kNumKvHeads, sum.attention_mass / kNumKvHeads,
          sum.output_error / kNumKvHeads};
}

class RetrievalQualityTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  RetrievalQualityTest() { at::manual_seed(7); }
  const c10::InferenceMode no_autograd_;
};

TEST_P(RetrievalQualityTest, EqualsABruteForceInDouble) {
  QualityStep step(GetParam());
  const double tolerance = GetParam() == at::kFloat ? 1e-5 : 5e-3;
  for (const QualityTarget target : {QualityTarget{1, 0}, QualityTarget{2, 0}, QualityTarget{2, 1}}) {
    ASSERT_EQ(step.Decode(target).size(), 2u);
    ASSERT_NE(step.pending(), nullptr);
    const QualityReading reading = step.pending()->Wait();
    EXPECT_EQ(reading.target.row, target.row);
    const RetrievalQuality* const measured = &reading.measured;
    const RetrievalQuality expected = step.BruteForce(target);
    // In half precision a query that rounds the other way may swap a token at the selection's edge.
    const double hit = GetParam() == at::kFloat ? 1e-6 : 1.01 / kNumSelect;
    EXPECT_NEAR(measured->recall, expected.recall, hit);
    EXPECT_NEAR(measured->iou, expected.iou, hit);
    EXPECT_NEAR(measured->attention_mass, expected.attention_mass, tolerance);
    EXPECT_NEAR(measured->output_error, expected.output_error, tolerance);
    // The case is one where the four can go wrong.
    EXPECT_GT(expected.recall, 0.3);
    EXPECT_LT(expected.recall, 0.95);
    EXPECT_LT(expected.attention_mass, 0.99);
    EXPECT_GT(expected.output_error, 0.02);
  }
}

TEST_P(RetrievalQualityTest, MeasuringChangesNoRowsOutput) {
  for (const bool prefilter : {false, true}) {
    QualityStep step(GetParam(), prefilter);
    const std::vector<at::Tensor> plain = step.Decode(absl::nullopt);
    EXPECT_EQ(step.pending(), nullptr);
    for (const int32_t layer : {0, 1}) {
      const std::vector<at::Tensor> measured = step.Decode(QualityTarget{2, layer});
      EXPECT_NE(step.pending(), nullptr);
      for (const int32_t l : {0, 1}) EXPECT_TRUE(at::equal(plain[l], measured[l])) << "layer " << l;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, RetrievalQualityTest, ::testing::Values(at::kFloat, at::kBFloat16));

}  // namespace
}  // namespace spotlight::engine
