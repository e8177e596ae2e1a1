#include "engine/model/safetensors_values.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {

using testing::ElementsAre;

TensorView ViewOf(const std::vector<uint16_t>& values, kernels::DType dtype) {
  TensorView view;
  view.dtype = dtype;
  view.shape = {static_cast<int64_t>(values.size())};
  view.data = reinterpret_cast<const std::byte*>(values.data());
  view.num_bytes = values.size() * sizeof(uint16_t);
  return view;
}

TEST(SafetensorsValuesTest, WidensF16Exactly) {
  const std::vector<uint16_t> halves = {0x0000, 0x8000, 0x3c00, 0xc000, 0x7bff, 0x0400,
                                        0x0001, 0x83ff, 0x7c00, 0xfc00, 0x7e00};
  std::vector<float> floats(halves.size());
  ReadFloats(ViewOf(halves, kernels::DType::kF16), 0, floats.size(), floats.data());
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(floats[0], 0);
  EXPECT_FALSE(std::signbit(floats[0]));
  EXPECT_TRUE(std::signbit(floats[1]));
  EXPECT_EQ(floats[2], 1);
  EXPECT_EQ(floats[3], -2);
  EXPECT_EQ(floats[4], 65504);
  EXPECT_EQ(floats[5], 0x1p-14f);
  EXPECT_EQ(floats[6], 0x1p-24f);
  EXPECT_EQ(floats[7], -1023 * 0x1p-24f);
  EXPECT_EQ(floats[8], infinity);
  EXPECT_EQ(floats[9], -infinity);
  EXPECT_TRUE(std::isnan(floats[10]));
}

TEST(SafetensorsValuesTest, ReadsARangeOfElements) {
  const std::vector<uint16_t> values = {0x3f80, 0x4000, 0x4040, 0x4080};  // 1, 2, 3, 4 in bf16
  std::vector<float> floats(2);
  const TensorView view = ViewOf(values, kernels::DType::kBF16);
  ReadFloats(view, 1, 3, floats.data());
  EXPECT_THAT(floats, ElementsAre(2, 3));
  EXPECT_EQ(NumElements(view), 4);
}

TEST(SafetensorsValuesTest, ReadsUnalignedFloats) {
  std::vector<std::byte> bytes(9);
  const float values[] = {1.5f, -2.5f};
  memcpy(bytes.data() + 1, values, sizeof(values));
  TensorView view;
  view.shape = {2};
  view.data = bytes.data() + 1;
  view.num_bytes = 8;
  std::vector<float> floats(2);
  ReadFloats(view, 0, 2, floats.data());
  EXPECT_THAT(floats, ElementsAre(1.5f, -2.5f));
}

TEST(SafetensorsValuesTest, RoundsToBf16NearestEven) {
  EXPECT_EQ(ToBf16(1.0f), 0x3f80);
  EXPECT_EQ(ToBf16(1.0f + 0x1p-8f), 0x3f80) << "a tie goes to the even neighbour below";
  EXPECT_EQ(ToBf16(1.0f + 3 * 0x1p-8f), 0x3f82) << "and to the even neighbour above";
  EXPECT_EQ(ToBf16(1.0f + 0x1p-8f + 0x1p-20f), 0x3f81);
  EXPECT_EQ(ToBf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(ToBf16(-std::numeric_limits<float>::infinity()), 0xff80);
  const uint16_t nan = ToBf16(std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(nan & 0x7f80, 0x7f80);
  EXPECT_NE(nan & 0x007f, 0);
}

}  // namespace
}  // namespace spotlight::engine
