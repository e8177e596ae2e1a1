// Fp8Rows, and the storage type under it, against a search among every value that eight bits hold.
#include "kernels/fp8_rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/e4m3.h"

namespace spotlight::kernels {
namespace {

// From the format's definition.
double ValueOf(int bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return bits & 0x80 ? -magnitude : magnitude;
}

// The nearest finite value with the sign of x, of two the one whose last bit is 0.
int NearestBits(double x) {
  int best = std::signbit(x) ? 0x80 : 0;
  for (int bits = best; bits < (best & 0x80) + 0x7f; ++bits) {
    const double error = std::abs(ValueOf(bits) - x), least = std::abs(ValueOf(best) - x);
    if (error < least || (error == least && bits % 2 == 0)) best = bits;
  }
  return best;
}

int Rounded(float x) {
  E4m3 rounded;
  RoundTo(x, &rounded);
  return rounded.bits;
}

TEST(E4m3Test, HoldsTheFormatsValues) {
  for (int bits = 0; bits < 256; ++bits) {
    const float value = ToFloat(E4m3{static_cast<uint8_t>(bits)});
    if ((bits & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_EQ(Rounded(value), 0x7f);
    } else {
      EXPECT_EQ(value, ValueOf(bits)) << bits;
      EXPECT_EQ(Rounded(value), bits);
    }
  }
}

TEST(E4m3Test, RoundsToNearestEvenAndStopsAtTheLargest) {
  for (int bits = 0; bits < 0x7e; ++bits) {
    const auto low = static_cast<float>(ValueOf(bits)), high = static_cast<float>(ValueOf(bits + 1));
    const float middle = low + (high - low) / 2;
    for (const float x : {middle, std::nextafter(middle, low), std::nextafter(middle, high)}) {
      ASSERT_EQ(Rounded(x), NearestBits(x)) << x;
      ASSERT_EQ(Rounded(-x), NearestBits(-x)) << -x;
    }
  }
  for (const float x : {449.0f, 464.0f, 1e30f, std::numeric_limits<float>::infinity()}) EXPECT_EQ(Rounded(x), 0x7e);
}

TEST(Fp8RowsTest, EachRowsLargestMagnitudeBecomes448) {
  constexpr int64_t kRows = 5;
  constexpr int32_t kColumns = 33;
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    std::vector<float> memory(kRows * kColumns);
    for (int64_t i = 0; i < kRows * kColumns; ++i) {
      const int64_t row = i / kColumns;
      StoreElement(row == 3 ? 0.0f : normal(random) * std::pow(10.0f, static_cast<float>(row - 2)), memory.data(),
                   dtype, i);
    }
    std::vector<E4m3> out(kRows * kColumns, E4m3{0x55});
    std::vector<float> scale(kRows);
    Fp8RowsParams params;
    params.dtype = dtype;
    params.num_rows = kRows;
    params.num_columns = kColumns;
    params.x = memory.data();
    params.out = out.data();
    params.scale = scale.data();
    ASSERT_TRUE(Fp8Rows(params).ok());
    for (int64_t row = 0; row < kRows; ++row) {
      float largest = 0;
      for (int32_t k = 0; k < kColumns; ++k) {
        largest = std::max(largest, std::abs(LoadElement(memory.data(), dtype, row * kColumns + k)));
      }
      EXPECT_EQ(scale[row], row == 3 ? 1.0f : largest / 448);
      for (int32_t k = 0; k < kColumns; ++k) {
        const float x = LoadElement(memory.data(), dtype, row * kColumns + k);
        ASSERT_EQ(out[row * kColumns + k].bits, NearestBits(x / scale[row])) << row << ", " << k;
      }
    }
  }
}

TEST(Fp8RowsTest, MagnitudesTooSmallForAScaleBecomeZeros) {
  std::vector<float> x = {1e-44f, 0, -1e-44f};
  std::vector<E4m3> out(x.size(), E4m3{0x55});
  float scale = 0;
  Fp8RowsParams params;
  params.dtype = DType::kF32;
  params.num_rows = 1;
  params.num_columns = static_cast<int32_t>(x.size());
  params.x = x.data();
  params.out = out.data();
  params.scale = &scale;
  ASSERT_TRUE(Fp8Rows(params).ok());
  EXPECT_EQ(scale, 1);
  for (const E4m3 element : out) EXPECT_EQ(ToFloat(element), 0);
}

TEST(Fp8RowsTest, NamesTheFieldAtFault) {
  alignas(16) float memory[16] = {};
  Fp8RowsParams params;
  params.dtype = DType::kF32;
  params.num_rows = 1;
  params.num_columns = 16;
  params.x = memory;
  params.out = memory;
  const auto message = [&params] { return std::string(Fp8Rows(params).message()); };
  EXPECT_EQ(message(), "Fp8Rows: scale is null");
  params.scale = memory;
  params.num_rows = 0;
  EXPECT_EQ(message(), "Fp8Rows: num_rows = 0, must be in [1, 2147483647]");
  params.num_rows = 1;
  params.execution.device = DeviceKind::kCuda;
  EXPECT_EQ(message(), "Fp8Rows: dtype = 0, must be bf16");
  params.dtype = DType::kBF16;
  params.num_columns = 12;
  EXPECT_EQ(message(), "Fp8Rows: num_columns = 12, must be a multiple of 8");
}

}  // namespace
}  // namespace spotlight::kernels
