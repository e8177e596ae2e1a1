// SmallLinear against loops in double, and a row's result against the rows beside it.
#include "kernels/small_linear.h"

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "tests/kernels/managed_elements.h"

namespace spotlight::kernels::testing {
namespace {

struct Case {
  DType dtype;
  int32_t rows, in, out;
  bool bias;
  bool fp8 = false;
};

class SmallLinearCudaTest : public ::testing::TestWithParam<Case> {};

TEST_P(SmallLinearCudaTest, GivesTheProductAndEachRowAlone) {
  const Case& c = GetParam();
  std::mt19937_64 random(3);
  Elements x(c.dtype, int64_t{c.rows} * c.in), weight(c.dtype, int64_t{c.out} * c.in), bias(c.dtype, c.out);
  Elements out(c.dtype, int64_t{c.rows} * c.out), alone(c.dtype, c.out);
  x.Randomise(&random, 1);
  weight.Randomise(&random, 1.0f / std::sqrt(static_cast<float>(c.in)));
  bias.Randomise(&random, 1);
  const Fp8Elements fp8_weight(weight, c.dtype, c.out, c.in);
  const auto weight_at = [&](int64_t i) { return c.fp8 ? fp8_weight.at(i) : double{weight.at(i)}; };
  SmallLinearParams params;
  params.execution.device = DeviceKind::kCuda;
  params.dtype = c.dtype;
  params.num_rows = c.rows;
  params.num_in = c.in;
  params.num_out = c.out;
  params.x = x.data();
  params.weight = c.fp8 ? fp8_weight.data() : weight.data();
  params.weight_scale = c.fp8 ? fp8_weight.scale() : nullptr;
  params.bias = c.bias ? bias.data() : nullptr;
  params.out = out.data();
  ASSERT_TRUE(SmallLinear(params).ok());
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);

  // Half a last place of the result, and the sum's own error in fp32.
  const double place = c.dtype == DType::kBF16 ? 0x1p-8 : 0x1p-11;
  const std::vector<float> inputs = x.values();
  std::vector<double> weights(c.in);
  for (int32_t n = 0; n < c.out; ++n) {
    for (int32_t k = 0; k < c.in; ++k) weights[k] = weight_at(int64_t{n} * c.in + k);
    for (int32_t row = 0; row < c.rows; ++row) {
      double sum = c.bias ? bias.at(n) : 0, size = std::abs(sum);
      for (int32_t k = 0; k < c.in; ++k) {
        const double product = double{inputs[int64_t{row} * c.in + k]} * weights[k];
        sum += product;
        size += std::abs(product);
      }
      ASSERT_NEAR(out.at(int64_t{row} * c.out + n), sum, place * std::abs(sum) + 1e-6 * size) << row << ", " << n;
    }
  }

  const std::vector<float> together = out.values();
  for (int32_t row = 0; row < c.rows; ++row) {
    params.num_rows = 1;
    params.x = static_cast<const char*>(x.data()) + int64_t{row} * c.in * SizeOf(c.dtype);
    params.out = alone.data();
    ASSERT_TRUE(SmallLinear(params).ok());
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    for (int32_t n = 0; n < c.out; ++n) ASSERT_EQ(alone.at(n), together[int64_t{row} * c.out + n]) << row << ", " << n;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, SmallLinearCudaTest,
    ::testing::Values(Case{DType::kBF16, 1, 64, 16, false}, Case{DType::kBF16, 8, 576, 960, true},
                      Case{DType::kF16, 3, 1536, 576, false}, Case{DType::kBF16, 5, 3584, 464, true},
                      Case{DType::kF16, 8, 18944, 112, true}, Case{DType::kBF16, 8, 3584, 4624, true},
                      Case{DType::kBF16, 4, 576, 1552, false}, Case{DType::kF16, 6, 1088, 9008, true},
                      Case{DType::kBF16, 2, 3136, 13040, false}, Case{DType::kBF16, 9, 18944, 112, true},
                      Case{DType::kF16, 16, 1088, 6352, false}, Case{DType::kBF16, 13, 3584, 9104, true}));

INSTANTIATE_TEST_SUITE_P(
    Fp8Shapes, SmallLinearCudaTest,
    ::testing::Values(Case{DType::kBF16, 1, 64, 16, false, true}, Case{DType::kBF16, 8, 576, 960, true, true},
                      Case{DType::kBF16, 9, 1536, 576, false, true}, Case{DType::kBF16, 16, 3584, 464, true, true},
                      Case{DType::kBF16, 5, 18944, 112, true, true}, Case{DType::kBF16, 13, 3584, 4624, true, true},
                      Case{DType::kBF16, 4, 2048, 1552, false, true}, Case{DType::kBF16, 3, 2112, 9008, true, true},
                      Case{DType::kBF16, 24, 3136, 6352, false, true}, Case{DType::kBF16, 32, 1088, 9104, true, true},
                      Case{DType::kBF16, 25, 4096, 2128, false, true}));

TEST(SmallLinearTest, RefusesWhatItCannotMultiply) {
  SmallLinearParams params;
  params.execution.device = DeviceKind::kCuda;
  alignas(16) char memory[16];
  params.x = params.weight = memory;
  params.out = memory;
  const float scale = 1;
  params.num_rows = kMaxSmallLinearFp8Rows + 1;
  params.weight_scale = &scale;
  EXPECT_EQ(SmallLinear(params).code(), absl::StatusCode::kInvalidArgument);
  params.num_rows = 1;
  params.num_in = 64;
  params.num_out = 16;
  params.dtype = DType::kF16;
  EXPECT_EQ(SmallLinear(params).code(), absl::StatusCode::kInvalidArgument);
  params.dtype = DType::kBF16;
  params.weight_scale = nullptr;
  params.num_rows = kMaxSmallLinearRows + 1;
  params.num_in = 64;
  params.num_out = 16;
  EXPECT_EQ(SmallLinear(params).code(), absl::StatusCode::kInvalidArgument);
  params.num_rows = 1;
  params.num_in = 65;
  EXPECT_EQ(SmallLinear(params).code(), absl::StatusCode::kInvalidArgument);
  params.num_in = 64;
  params.num_out = 17;
  EXPECT_EQ(SmallLinear(params).code(), absl::StatusCode::kInvalidArgument);
  params.num_out = 16;
  params.norm_weight = memory;
  EXPECT_EQ(SmallLinear(params).message(), "SmallLinear: norm_eps = 0, must be positive and finite");
  params.norm_eps = 1e-6f;
  params.norm_weight = memory + 8;
  EXPECT_EQ(SmallLinear(params).code(), absl::StatusCode::kInvalidArgument);
  params.norm_weight = memory;
  params.dtype = DType::kF16;
  EXPECT_EQ(SmallLinear(params).message(), "SmallLinear: dtype = 2, must be bf16 with a norm_weight");
  params.dtype = DType::kBF16;
  params.weight_scale = &scale;
  EXPECT_EQ(SmallLinear(params).code(), absl::StatusCode::kInvalidArgument);
  params.weight_scale = nullptr;
  params.norm_weight = nullptr;
  params.result = static_cast<SmallLinearResult>(3);
  EXPECT_EQ(SmallLinear(params).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace spotlight::kernels::testing
