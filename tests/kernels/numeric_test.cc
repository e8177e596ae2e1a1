#include "kernels/numeric.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/budget.h"

namespace spotlight::kernels {
namespace {

// The stored value of x, found by search among every finite value of the type: nearest, ties to even bits.
template <class T>
class Nearest {
 public:
  static void ExpectRounds(float x) {
    T rounded;
    RoundTo(x, &rounded);
    const double error = std::abs(double{ToFloat(rounded)} - x);
    for (const int step : {-1, 1}) {
      const T neighbour{static_cast<uint16_t>(rounded.bits + step)};
      if (!std::isfinite(ToFloat(neighbour)) || std::signbit(ToFloat(neighbour)) != std::signbit(x)) continue;
      const double other = std::abs(double{ToFloat(neighbour)} - x);
      ASSERT_TRUE(error < other || (error == other && rounded.bits % 2 == 0)) << x;
    }
  }
};

template <class T>
class StorageTest : public ::testing::Test {};
using StorageTypes = ::testing::Types<BF16, F16>;
TYPED_TEST_SUITE(StorageTest, StorageTypes);

TYPED_TEST(StorageTest, KeepsEveryValueThroughFloat) {
  for (uint32_t bits = 0; bits < 1u << 16; ++bits) {
    const TypeParam value{static_cast<uint16_t>(bits)};
    const float x = ToFloat(value);
    TypeParam back;
    RoundTo(x, &back);
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(ToFloat(back)));
    } else {
      ASSERT_EQ(back.bits, value.bits);
    }
  }
}

TYPED_TEST(StorageTest, RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7c00u; ++bits) {
    const float low = ToFloat(TypeParam{static_cast<uint16_t>(bits)});
    const float high = ToFloat(TypeParam{static_cast<uint16_t>(bits + 1)});
    if (!std::isfinite(high)) break;
    const float middle = low + (high - low) / 2;
    for (const float x : {middle, std::nextafter(middle, low), std::nextafter(middle, high)}) {
      Nearest<TypeParam>::ExpectRounds(x);
      Nearest<TypeParam>::ExpectRounds(-x);
    }
  }
}

TEST(NumericTest, HalfOverflowsToInfinity) {
  F16 half;
  RoundTo(65519.0f, &half);
  EXPECT_EQ(ToFloat(half), 65504.0f);
  RoundTo(65520.0f, &half);
  EXPECT_EQ(ToFloat(half), std::numeric_limits<float>::infinity());
  RoundTo(-1e30f, &half);
  EXPECT_EQ(ToFloat(half), -std::numeric_limits<float>::infinity());
}

TEST(BudgetTest, SelectsTheShareOrTheMinimumAndNeverMoreThanCandidates) {
  const Budget budget;
  EXPECT_EQ(NumSelected(budget, 132), 0);   // 64 candidates: dense
  EXPECT_EQ(NumSelected(budget, 133), 64);  // 65 candidates
  EXPECT_EQ(NumSelected(budget, 8000), 160);
  EXPECT_EQ(NumSelected(budget, 8001), 161);  // ceil
  Budget all;
  all.ratio = 1;
  EXPECT_EQ(NumSelected(all, 1000), 1000 - kSinkTokens - kRecentTokens);
}

}  // namespace
}  // namespace spotlight::kernels
