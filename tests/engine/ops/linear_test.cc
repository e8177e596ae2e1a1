// On the CPU, and the same with more on a GPU.
#include "engine/model/linear.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <functional>
#include <utility>

#include "engine/ops/pointwise.h"
#include "tests/testing/tensor_error.h"

namespace spotlight::engine {
namespace {

#ifdef TEST_ON_CUDA
const at::Device kDevice(at::kCUDA, 0);
#else
const at::Device kDevice(at::kCPU);
#endif

using spotlight::testing::RelativeError;

at::Tensor Random(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::randn(shape).to(kDevice, dtype);
}

class LinearTest : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(LinearTest, EqualsADoubleProductForAnyNumberOfRows) {
  const c10::InferenceMode no_autograd;
  const at::ScalarType dtype = GetParam();
  const at::Tensor weight = Random({192, 64}, dtype), bias = Random({192}, dtype);
  const Linear linear(weight, bias);
  for (int64_t rows : {1, 2, 15, 16, 17, 40}) {
    const at::Tensor x = Random({rows, 64}, dtype);
    const at::Tensor expected = at::matmul(x.to(at::kDouble), weight.to(at::kDouble).t()) + bias.to(at::kDouble);
    EXPECT_LT(RelativeError(linear(x), expected), dtype == at::kFloat ? 1e-6 : 5e-3) << rows << " rows";
  }
}

// Of the sizes of few rows and of many; with an update that waits as many rows leave one.
TEST_P(LinearTest, InALayerGivesWhatTheOperationsGiveOneAfterTheOther) {
  const c10::InferenceMode no_autograd;
  const at::ScalarType dtype = GetParam();
  constexpr int64_t kHidden = 128, kInner = 320;
  const RmsNorm norm = {Random({kHidden}, dtype), 1e-6};
  const Linear gate_up(Random({2 * kInner, kHidden}, dtype), Random({2 * kInner}, dtype));
  const Linear down(Random({kHidden, kInner}, dtype), at::Tensor());
  // One kernel rounds a norm less often than two.
  const double tolerance = kDevice.is_cuda() && dtype == at::kBFloat16 ? 1e-2 : 0;
  for (const int64_t rows : {1, 16, 17, 40}) {
    const at::Tensor x = Random({rows, kHidden}, dtype), input = Random({rows, kInner}, dtype);
    const at::Tensor update = down(input);
    const at::Tensor sum = x + update;
    const at::Tensor product = gate_up(*AddRmsNorm(sum.clone(), at::Tensor(), norm.weight, norm.eps));
    const at::Tensor activated = *SiluMul(product);

    ResidualStream stream = {x.clone(), at::Tensor()};
    down.AddTo(input, &stream);
    EXPECT_LE(RelativeError(*gate_up.OfNorm(norm, &stream), product.to(at::kDouble)), tolerance) << rows;
    EXPECT_TRUE(at::equal(stream.x, sum)) << rows;
    EXPECT_FALSE(stream.update.defined()) << rows;
    EXPECT_LE(RelativeError(*gate_up.SiluMulOfNorm(norm, &stream), activated.to(at::kDouble)), tolerance) << rows;
    EXPECT_TRUE(at::equal(stream.x, sum)) << rows;

    stream = {x.clone(), update};
    EXPECT_TRUE(at::equal(*gate_up.SiluMulOfNorm(norm, &stream), activated)) << rows;
    EXPECT_TRUE(at::equal(stream.x, sum)) << rows;
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, LinearTest, ::testing::Values(at::kFloat, at::kBFloat16));

#ifdef TEST_ON_CUDA
// Nodes of a graph captured from `enqueue`, which has run before.
size_t CountLaunches(const std::function<void()>& enqueue) {
  const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
  const c10::cuda::CUDAStreamGuard on_stream(stream);
  enqueue();  // what is allocated now is at hand for the next
  stream.synchronize();
  cudaGraph_t graph = nullptr;
  size_t count = 0;
  EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  enqueue();
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  EXPECT_EQ(cudaGraphGetNodes(graph, nullptr, &count), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  return count;
}

TEST(LinearTest, FewRowsTakeOneKernelForALayerAndWhatIsAroundIt) {
  const c10::InferenceMode no_autograd;
  const RmsNorm norm = {Random({128}, at::kBFloat16), 1e-6};
  const Linear qkv(Random({192, 128}, at::kBFloat16), Random({192}, at::kBFloat16));
  const Linear output(Random({128, 64}, at::kBFloat16), at::Tensor());
  const Linear gate_up(Random({512, 128}, at::kBFloat16), at::Tensor());
  const Linear down(Random({128, 256}, at::kBFloat16), at::Tensor());
  for (const int64_t rows : {1, 16}) {
    const at::Tensor attended = Random({rows, 64}, at::kBFloat16);
    ResidualStream stream = {Random({rows, 128}, at::kBFloat16), at::Tensor()};
    EXPECT_EQ(CountLaunches([&] {
                EXPECT_TRUE(qkv.OfNorm(norm, &stream).ok());
                output.AddTo(attended, &stream);
                down.AddTo(*gate_up.SiluMulOfNorm(norm, &stream), &stream);
              }),
              4u);
  }
}
#else
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
#endif

}  // namespace
}  // namespace spotlight::engine
