// Linear layers with fp8 weights against products in double; on the CPU, and the same on a GPU.
#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "engine/load.h"
#include "engine/model/fp8_matrix.h"
#include "engine/model/linear.h"
#include "kernels/small_linear.h"
#include "tests/testing/model_harness.h"
#include "tests/testing/tensor_error.h"

namespace spotlight::engine {
namespace {

using spotlight::testing::HarnessOptions;
using spotlight::testing::ModelHarness;
using spotlight::testing::RelativeError;

#ifdef TEST_ON_CUDA
const at::Device kDevice(at::kCUDA, 0);
constexpr at::ScalarType kDType = at::kBFloat16;
#else
const at::Device kDevice(at::kCPU);
constexpr at::ScalarType kDType = at::kFloat;
#endif
constexpr char kFolder[] = "tests/testdata/tiny-llama";

at::Tensor Random(at::IntArrayRef shape) {
  return at::randn(shape).to(kDevice, kDType);
}

// In double, as LibTorch reads the bytes.
at::Tensor Exactly(const Fp8Matrix& matrix) {
  return matrix.values.to(at::kFloat).to(at::kDouble) * matrix.scale.to(at::kDouble).unsqueeze(1);
}

TEST(Fp8MatrixTest, HoldsTheNearestValuesUnderEachRowsScale) {
  const c10::InferenceMode no_autograd;
  const at::Tensor rows = Random({48, 128});
  const Fp8Matrix rounded = RoundToFp8(rows);
  const at::Tensor wide = rows.to(at::kCPU, at::kFloat);
  const at::Tensor scale = at::amax(at::abs(wide), 1) / 448;
  EXPECT_TRUE(at::equal(rounded.scale.cpu(), scale));
  const at::Tensor expected = (wide / scale.unsqueeze(1)).to(at::kFloat8_e4m3fn);
  EXPECT_TRUE(at::equal(rounded.values.cpu().to(at::kFloat), expected.to(at::kFloat)));
  EXPECT_LT(RelativeError(Widen(rounded, at::kFloat), Exactly(rounded)), 1e-6);
}

TEST(Fp8LinearTest, EqualsADoubleProductForAnyNumberOfRows) {
  const c10::InferenceMode no_autograd;
  // Of both kernels' sizes, and of those that few rows have no kernel for.
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{192, 64}, {64, 96}, {1152, 576}}) {
    const at::Tensor weight = Random({out, in}), bias = Random({out});
    const Linear linear(weight, bias, Quantization::kFp8);
    const at::Tensor exact = Exactly(RoundToFp8(weight));
    for (const int64_t rows : {1, 8, 9, 16, 32, 33, 300}) {
      const at::Tensor x = Random({rows, in});
      const bool few = kernels::SmallLinearSupported(kernels::DType::kBF16, /*fp8=*/true, rows, in, out);
      const bool rounds = kDevice.is_cuda() && !few && Linear::MultipliesFp8(kDevice);
      const at::Tensor input = rounds ? Exactly(RoundToFp8(x)) : x.to(at::kDouble);
      const at::Tensor expected = at::matmul(input, exact.t()) + bias.to(at::kDouble);
      EXPECT_LT(RelativeError(linear(x), expected), kDType == at::kFloat ? 1e-6 : 5e-3) << rows << " rows of " << in;
      // What rounding the rows may cost.
      const at::Tensor unrounded = at::matmul(x.to(at::kDouble), exact.t()) + bias.to(at::kDouble);
      EXPECT_LT(RelativeError(linear(x), unrounded), 0.05) << rows << " rows of " << in;
    }
  }
}

#ifdef TEST_ON_CUDA
TEST(Fp8LinearTest, AFewRowsGetTheBitsOfEachAlone) {
  const c10::InferenceMode no_autograd;
  const Linear linear(Random({1152, 576}), Random({1152}), Quantization::kFp8);
  const at::Tensor x = Random({kernels::kMaxSmallLinearFp8Rows, 576});
  const at::Tensor together = linear(x);
  for (int64_t row = 0; row < x.size(0); ++row) {
    ASSERT_TRUE(at::equal(linear(x.narrow(0, row, 1)), together.narrow(0, row, 1))) << row;
  }
}

TEST(Fp8LoadTest, RefusesAnotherTypeThanBf16) {
  LoadOptions options;
  options.model_folder = kFolder;
  options.device = "cuda:0";
  options.dtype = DTypeChoice::kFp32;
  options.quantization = Quantization::kFp8;
  const auto loaded = LoadEngine(options, nullptr);
  EXPECT_EQ(loaded.status().message(), "quantization: fp8 on a GPU needs bf16, not fp32");
}
#endif

std::vector<float> Logits(const HarnessOptions& options, int32_t prompt_tokens) {
  auto harness = ModelHarness::Create(kFolder, options);
  EXPECT_TRUE(harness.ok()) << harness.status();
  if (!harness.ok()) return {};
  std::vector<int32_t> prompt;
  for (int32_t t = 0; t < prompt_tokens; ++t) prompt.push_back(5 + t * 37 % 400);
  auto logits = (*harness)->Prefill(prompt);
  EXPECT_TRUE(logits.ok()) << logits.status();
  if (!logits.ok()) return {};
  logits = (*harness)->Decode(11);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return logits.ok() ? *logits : std::vector<float>();
}

double Distance(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size() && i < b.size(); ++i) {
    error += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    size += double{b[i]} * b[i];
  }
  return std::sqrt(error / size);
}

TEST(Fp8ModelTest, IsNearTheModelThatWasRounded) {
  const c10::InferenceMode no_autograd;
  for (const int32_t prompt_tokens : {12, 200}) {
    HarnessOptions options;
    const std::vector<float> exact = Logits(options, prompt_tokens);
    options.quantization = Quantization::kFp8;
    const std::vector<float> rounded = Logits(options, prompt_tokens);
    // Weights at random make much of small errors: twice that and more is what other logits are away.
    EXPECT_GT(Distance(rounded, exact), 1e-3);
    EXPECT_LT(Distance(rounded, exact), 0.5);
    options.device = kDevice;
    options.dtype = kDType;
    EXPECT_LT(Distance(Logits(options, prompt_tokens), rounded), kDType == at::kFloat ? 1e-6 : 0.5);
  }
}

}  // namespace
}  // namespace spotlight::engine
