// SmallLinear with a norm before it, a residual or a gate after it.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "kernels/pointwise.h"
#include "kernels/small_linear.h"
#include "tests/kernels/captured_graph.h"
#include "tests/kernels/managed_elements.h"

namespace spotlight::kernels::testing {
namespace {

constexpr float kEps = 1e-5f;

struct Case {
  DType dtype;
  int32_t rows, in, out;
  bool bias = false, fp8 = false;
};

// A linear layer with its weights; norm_weight belongs to its input.
class Layer {
 public:
  Layer(const Case& c, std::mt19937_64* random)
      : c_(c), weight_(c.dtype, int64_t{c.out} * c.in), bias_(c.dtype, c.out), norm_weight_(c.dtype, c.in) {
    weight_.Randomise(random, 1.0f / std::sqrt(static_cast<float>(c.in)));
    bias_.Randomise(random, 1);
    norm_weight_.Randomise(random, 1);
    if (c.fp8) fp8_ = std::make_unique<Fp8Elements>(weight_, c.dtype, c.out, c.in);
  }

  absl::Status Multiply(const Elements& x, const Elements& out, SmallLinearResult result, bool norm,
                        void* stream = nullptr, int32_t rows = 0) const {
    SmallLinearParams params;
    params.execution.device = DeviceKind::kCuda;
    params.execution.stream = stream;
    params.dtype = c_.dtype;
    params.num_rows = rows > 0 ? rows : c_.rows;
    params.num_in = c_.in;
    params.num_out = c_.out;
    params.x = x.data();
    params.weight = c_.fp8 ? fp8_->data() : weight_.data();
    params.weight_scale = c_.fp8 ? fp8_->scale() : nullptr;
    params.bias = c_.bias ? bias_.data() : nullptr;
    params.norm_weight = norm ? norm_weight_.data() : nullptr;
    params.norm_eps = kEps;
    params.result = result;
    params.out = out.data();
    return SmallLinear(params);
  }

  // The same without a norm, by an operation for each part, waited for.
  void MultiplyInParts(const Elements& x, Elements* out, SmallLinearResult result) const {
    Elements y(c_.dtype, int64_t{c_.rows} * c_.out);
    ASSERT_TRUE(Multiply(x, y, SmallLinearResult::kStore, false).ok());
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    if (result == SmallLinearResult::kAdd) {
      Elements weight(c_.dtype, c_.out), unused(c_.dtype, int64_t{c_.rows} * c_.out);
      AddRmsNormParams params;
      params.execution.device = DeviceKind::kCuda;
      params.dtype = c_.dtype;
      params.num_tokens = c_.rows;
      params.hidden = c_.out;
      params.eps = kEps;
      params.x = out->data();
      params.delta = y.data();
      params.weight = weight.data();
      params.out = unused.data();
      ASSERT_TRUE(AddRmsNorm(params).ok());
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    } else {
      SiluMulParams params;
      params.execution.device = DeviceKind::kCuda;
      params.dtype = c_.dtype;
      params.num_tokens = c_.rows;
      params.intermediate = c_.out / 2;
      params.gate_up = y.data();
      params.out = out->data();
      ASSERT_TRUE(SiluMul(params).ok());
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    }
  }

  // y of the norm of x by loops in double, and how far off a sum in fp32 may be.
  void NormedProduct(const Elements& x, std::vector<double>* y, std::vector<double>* error) const {
    std::vector<double> weights(c_.in), inputs(int64_t{c_.rows} * c_.in), scales(c_.rows);
    alignas(4) char rounded[4];
    for (int32_t row = 0; row < c_.rows; ++row) {
      double squares = 0;
      for (int32_t k = 0; k < c_.in; ++k) {
        const float value = x.at(int64_t{row} * c_.in + k);
        squares += double{value} * value;
        StoreElement(value * norm_weight_.at(k), rounded, c_.dtype, 0);
        inputs[int64_t{row} * c_.in + k] = LoadElement(rounded, c_.dtype, 0);
      }
      scales[row] = 1 / std::sqrt(squares / c_.in + kEps);
    }
    for (int32_t n = 0; n < c_.out; ++n) {
      for (int32_t k = 0; k < c_.in; ++k) {
        weights[k] = c_.fp8 ? fp8_->at(int64_t{n} * c_.in + k) : weight_.at(int64_t{n} * c_.in + k);
      }
      for (int32_t row = 0; row < c_.rows; ++row) {
        double sum = 0, size = 0;
        for (int32_t k = 0; k < c_.in; ++k) {
          const double product = inputs[int64_t{row} * c_.in + k] * weights[k];
          sum += product;
          size += std::abs(product);
        }
        const int64_t at = int64_t{row} * c_.out + n;
        (*y)[at] = sum * scales[row] + (c_.bias ? bias_.at(n) : 0);
        (*error)[at] = 0x1p-8 * std::abs((*y)[at]) + 2e-6 * size * scales[row];
      }
    }
  }

 private:
  const Case c_;
  Elements weight_, bias_, norm_weight_;
  std::unique_ptr<Fp8Elements> fp8_;
};

class SmallLinearFusedCudaTest : public ::testing::TestWithParam<Case> {};

TEST_P(SmallLinearFusedCudaTest, AddsAndGatesWithTheBitsOfAnOperationAfterIt) {
  const Case& c = GetParam();
  std::mt19937_64 random(5);
  const Layer layer(c, &random);
  Elements x(c.dtype, int64_t{c.rows} * c.in), before(c.dtype, int64_t{c.rows} * c.out);
  x.Randomise(&random, 3);
  before.Randomise(&random, 1);
  for (const auto result : {SmallLinearResult::kAdd, SmallLinearResult::kSiluMul}) {
    Elements out(c.dtype, int64_t{c.rows} * c.out), expected(c.dtype, int64_t{c.rows} * c.out);
    out.CopyFrom(before);
    expected.CopyFrom(before);
    layer.MultiplyInParts(x, &expected, result);
    ASSERT_FALSE(expected.SameBits(before));
    ASSERT_TRUE(layer.Multiply(x, out, result, false).ok());
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    ASSERT_TRUE(out.SameBits(expected)) << static_cast<int>(result);
  }
}

TEST_P(SmallLinearFusedCudaTest, GivesTheProductOfANormAndEachRowAlone) {
  const Case& c = GetParam();
  if (!SmallLinearTakesNorm(c.dtype, c.fp8, c.in)) return;
  std::mt19937_64 random(9);
  const Layer layer(c, &random);
  const int64_t size = int64_t{c.rows} * c.out;
  Elements x(c.dtype, int64_t{c.rows} * c.in), out(c.dtype, size), gated(c.dtype, size / 2);
  x.Randomise(&random, 3);
  ASSERT_TRUE(layer.Multiply(x, out, SmallLinearResult::kStore, true).ok());
  ASSERT_TRUE(layer.Multiply(x, gated, SmallLinearResult::kSiluMul, true).ok());
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  std::vector<double> y(size), error(size);
  layer.NormedProduct(x, &y, &error);
  for (int64_t i = 0; i < size; ++i) ASSERT_NEAR(out.at(i), y[i], error[i]) << i;
  for (int64_t i = 0; i < size / 2; ++i) {
    const int64_t gate_at = i / (c.out / 2) * c.out + i % (c.out / 2);
    const double gate = out.at(gate_at), up = out.at(gate_at + c.out / 2), expected = gate / (1 + std::exp(-gate)) * up;
    ASSERT_NEAR(gated.at(i), expected, 0x1p-7 * std::abs(expected) + 1e-30) << i;
  }
  for (int32_t row = 0; row < c.rows; ++row) {
    Elements one(c.dtype, c.in), alone(c.dtype, c.out);
    one.CopyFrom(x, int64_t{row} * c.in, c.in);
    ASSERT_TRUE(layer.Multiply(one, alone, SmallLinearResult::kStore, true, nullptr, 1).ok());
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    for (int32_t n = 0; n < c.out; ++n) ASSERT_EQ(alone.at(n), out.at(int64_t{row} * c.out + n)) << row << ", " << n;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, SmallLinearFusedCudaTest,
                         ::testing::Values(Case{DType::kBF16, 1, 64, 32}, Case{DType::kBF16, 8, 576, 960, true},
                                           Case{DType::kF16, 3, 1536, 576}, Case{DType::kBF16, 5, 3584, 4640, true},
                                           Case{DType::kF16, 8, 3584, 1568, true}, Case{DType::kBF16, 2, 8192, 9024},
                                           Case{DType::kBF16, 7, 320, 13056, true}, Case{DType::kBF16, 9, 576, 6368},
                                           Case{DType::kBF16, 16, 3584, 4640, true}));
INSTANTIATE_TEST_SUITE_P(
    Fp8Shapes, SmallLinearFusedCudaTest,
    ::testing::Values(Case{DType::kBF16, 1, 64, 32, false, true}, Case{DType::kBF16, 8, 3584, 960, true, true},
                      Case{DType::kBF16, 9, 1536, 576, false, true}, Case{DType::kBF16, 16, 3584, 4640, true, true},
                      Case{DType::kBF16, 24, 3136, 6368, false, true}, Case{DType::kBF16, 32, 1088, 9120, true, true}));

// Steps of a decoder's layers, which write the residual stream that the step before reads.
TEST(SmallLinearFusedTest, LayersOfAGraphWaitForEachOther) {
  constexpr int32_t kHidden = 1536, kIntermediate = 4096, kLayers = 3, kReplays = 20;
  for (const int32_t rows : {1, 8, 16}) {
    std::mt19937_64 random(7);
    const Case gate_up = {DType::kBF16, rows, kHidden, 2 * kIntermediate};
    const Case down = {DType::kBF16, rows, kIntermediate, kHidden, true};
    std::vector<std::unique_ptr<Layer>> layers;
    for (int i = 0; i < kLayers; ++i) {
      layers.push_back(std::make_unique<Layer>(gate_up, &random));
      layers.push_back(std::make_unique<Layer>(down, &random));
    }
    Elements stream(DType::kBF16, rows * kHidden), expected(DType::kBF16, rows * kHidden);
    Elements activated(DType::kBF16, rows * kIntermediate), parts(DType::kBF16, rows * kIntermediate);
    stream.Randomise(&random, 1);
    expected.CopyFrom(stream);
    CapturedGraph graph;
    ASSERT_TRUE(
        graph
            .Capture([&](void* on) {
              absl::Status status;
              for (int i = 0; i < kLayers; ++i) {
                status.Update(layers[2 * i]->Multiply(stream, activated, SmallLinearResult::kSiluMul, true, on));
                status.Update(layers[2 * i + 1]->Multiply(activated, stream, SmallLinearResult::kAdd, false, on));
              }
              return status;
            })
            .ok());
    std::vector<cudaFuncAttributes> kernels;
    ASSERT_TRUE(graph.KernelAttributes(&kernels).ok());
    EXPECT_EQ(kernels.size(), 2u * kLayers);
    for (int replay = 0; replay < kReplays; ++replay) {
      for (int i = 0; i < kLayers; ++i) {
        ASSERT_TRUE(layers[2 * i]->Multiply(expected, parts, SmallLinearResult::kSiluMul, true).ok());
        ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
        ASSERT_TRUE(layers[2 * i + 1]->Multiply(parts, expected, SmallLinearResult::kAdd, false).ok());
        ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      }
      ASSERT_TRUE(graph.Run().ok());
      ASSERT_TRUE(stream.SameBits(expected)) << "replay " << replay << " of " << rows << " rows";
    }
  }
}

}  // namespace
}  // namespace spotlight::kernels::testing
