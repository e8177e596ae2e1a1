#include "engine/model/linear.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "tests/testing/tensor_error.h"

namespace spotlight::engine {
namespace {

using spotlight::testing::RelativeError;

class LinearTest : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(LinearTest, EqualsADoubleProductForAnyNumberOfRows) {
  const c10::InferenceMode no_autograd;
  const at::ScalarType dtype = GetParam();
  const at::Tensor weight = at::randn({192, 64}).to(dtype), bias = at::randn({192}).to(dtype);
  const Linear linear(weight, bias);
  for (int64_t rows : {1, 2, 15, 16, 17, 40}) {
    const at::Tensor x = at::randn({rows, 64}).to(dtype);
    const at::Tensor expected = at::matmul(x.to(at::kDouble), weight.to(at::kDouble).t()) + bias.to(at::kDouble);
    EXPECT_LT(RelativeError(linear(x), expected), dtype == at::kFloat ? 1e-6 : 5e-3) << rows << " rows";
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, LinearTest, ::testing::Values(at::kFloat, at::kBFloat16));

TEST(LinearTest, InFp32ARowDoesNotDependOnItsNeighbours) {
  const c10::InferenceMode no_autograd;
  for (const auto& [out, in] : {std::pair<int, int>{960, 576}, {576, 1536}, {3072, 576}, {320, 64}}) {
    const Linear linear(at::randn({out, in}), at::Tensor());
    const at::Tensor x = at::randn({37, in});
    const at::Tensor together = linear(x);
    for (int64_t row = 0; row < x.size(0); ++row) {
      ASSERT_TRUE(at::equal(linear(x.narrow(0, row, 1).clone()), together.narrow(0, row, 1)))
          << "row " << row << " of a " << out << " x " << in << " layer";
    }
  }
}

}  // namespace
}  // namespace spotlight::engine
