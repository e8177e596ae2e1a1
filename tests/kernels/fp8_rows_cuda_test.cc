// Fp8Rows on a GPU gives the CPU's bits.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/fp8_rows.h"
#include "kernels/numeric.h"

namespace spotlight::kernels {
namespace {

TEST(Fp8RowsCudaTest, GivesTheBitsOfTheCpu) {
  std::mt19937_64 random(11);
  std::normal_distribution<float> normal;
  for (const int32_t columns : {8, 576, 8192, 8200, 18944}) {
    constexpr int64_t kRows = 37;
    const int64_t count = kRows * columns;
    BF16* x = nullptr;
    uint8_t* out = nullptr;
    float* scale = nullptr;
    ASSERT_EQ(cudaMallocManaged(reinterpret_cast<void**>(&x), count * sizeof(BF16)), cudaSuccess);
    ASSERT_EQ(cudaMallocManaged(reinterpret_cast<void**>(&out), count), cudaSuccess);
    ASSERT_EQ(cudaMallocManaged(reinterpret_cast<void**>(&scale), kRows * sizeof(float)), cudaSuccess);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = i / columns;
      // Rows of every size, from subnormal to infinite, and one of zeros; a few values stand out.
      const float size = std::ldexp(i % 97 == 0 ? 50.0f : 1.0f, static_cast<int>(7 * (row - 18)));
      RoundTo(row == 5 ? 0.0f : size * normal(random), x + i);
    }
    Fp8RowsParams params;
    params.num_rows = kRows;
    params.num_columns = columns;
    params.x = x;
    std::vector<uint8_t> expected(count);
    std::vector<float> expected_scale(kRows);
    params.out = expected.data();
    params.scale = expected_scale.data();
    ASSERT_TRUE(Fp8Rows(params).ok());
    params.execution.device = DeviceKind::kCuda;
    params.out = out;
    params.scale = scale;
    ASSERT_TRUE(Fp8Rows(params).ok());
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(std::memcmp(scale, expected_scale.data(), kRows * sizeof(float)), 0) << columns << " columns";
    EXPECT_EQ(std::memcmp(out, expected.data(), count), 0) << columns << " columns";
    cudaFree(x);
    cudaFree(out);
    cudaFree(scale);
  }
}

}  // namespace
}  // namespace spotlight::kernels
