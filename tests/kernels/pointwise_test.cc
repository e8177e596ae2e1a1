// The pointwise operations on every backend of the build, against the reference.
#include "kernels/pointwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "kernels/numeric.h"
#include "kernels/reference/pointwise.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/decode_case.h"

namespace spotlight::kernels::testing {
namespace {

// Arrays of a case in one arena; inputs can be put back after an operation that overwrites them.
class Arrays {
 public:
  explicit Arrays(DType dtype) : dtype_(dtype), arena_(16 << 20) {}

  char* Random(int64_t count, float scale) {
    char* data = arena_.Allocate<char>(count * SizeOf(dtype_));
    for (int64_t i = 0; i < count; ++i) StoreElement(scale * normal_(random_), data, dtype_, i);
    return data;
  }
  void Save() { saved_.assign(arena_.base(), arena_.base() + arena_.extent()); }
  void Restore() { std::memcpy(arena_.base(), saved_.data(), saved_.size()); }
  std::vector<float> Read(const void* data, int64_t count) const {
    std::vector<float> values(count);
    for (int64_t i = 0; i < count; ++i) values[i] = LoadElement(data, dtype_, i);
    return values;
  }
  Arena* arena() { return &arena_; }

 private:
  const DType dtype_;
  Arena arena_;
  std::mt19937_64 random_{11};
  std::normal_distribution<float> normal_;
  std::vector<std::byte> saved_;
};

// Half precisions may differ by one place where a value lies on the edge of a rounding, and one place again after the
// second: rarely, so the norm stays far below a place.
void ExpectClose(const std::vector<float>& values, const std::vector<float>& expected, DType dtype) {
  EXPECT_LE(RelativeNorm(values, expected), dtype == DType::kF32 ? 1e-6 : 1e-4);
  const float place = dtype == DType::kF32 ? 1e-6f : dtype == DType::kBF16 ? 0x1p-6f : 0x1p-9f;
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_NEAR(values[i], expected[i], place * std::abs(expected[i]) + 1e-7f) << "element " << i;
  }
}

class PointwiseTest : public ::testing::TestWithParam<std::tuple<DType, int, int>> {
 protected:
  DType dtype() const { return std::get<0>(GetParam()); }
  int tokens() const { return std::get<1>(GetParam()); }
  int width() const { return std::get<2>(GetParam()); }
};

TEST_P(PointwiseTest, AddRmsNormEqualsReference) {
  for (const bool with_delta : {false, true}) {
    Arrays arrays(dtype());
    const int64_t count = int64_t{tokens()} * width();
    AddRmsNormParams params;
    params.dtype = dtype();
    params.num_tokens = tokens();
    params.hidden = width();
    params.eps = 1e-5f;
    params.x = arrays.Random(count, 3);
    if (with_delta) params.delta = arrays.Random(count, 1);
    params.weight = arrays.Random(width(), 1);
    params.out = arrays.Random(count, 1);
    arrays.Save();
    reference::AddRmsNorm(params);
    const std::vector<float> x = arrays.Read(params.x, count), out = arrays.Read(params.out, count);
    for (const auto& backend : Backends()) {
      SCOPED_TRACE(backend->name());
      arrays.Restore();
      const absl::Status status = backend->Run(params, arrays.arena());
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_EQ(arrays.Read(params.x, count), x);
      ExpectClose(arrays.Read(params.out, count), out, dtype());
    }
  }
}

TEST_P(PointwiseTest, SiluMulEqualsReference) {
  Arrays arrays(dtype());
  const int64_t count = int64_t{tokens()} * width();
  SiluMulParams params;
  params.dtype = dtype();
  params.num_tokens = tokens();
  params.intermediate = width();
  params.gate_up = arrays.Random(2 * count, 4);
  params.out = arrays.Random(count, 1);
  reference::SiluMul(params);
  const std::vector<float> out = arrays.Read(params.out, count);
  for (const auto& backend : Backends()) {
    SCOPED_TRACE(backend->name());
    std::memset(params.out, 0xff, count * SizeOf(dtype()));
    const absl::Status status = backend->Run(params, arrays.arena());
    ASSERT_TRUE(status.ok()) << status;
    ExpectClose(arrays.Read(params.out, count), out, dtype());
  }
}

// 80 tokens of 576 are enough for several threads.
INSTANTIATE_TEST_SUITE_P(Shapes, PointwiseTest,
                         ::testing::Combine(::testing::Values(DType::kF32, DType::kBF16, DType::kF16),
                                            ::testing::Values(1, 3, 80), ::testing::Values(16, 48, 576, 1536)));

TEST(PointwiseTest, GivesATokenTheSameBitsAloneAndInABatch) {
  constexpr int kTokens = 70, kWidth = 576;
  constexpr int64_t kRow = kWidth * 2;
  Arrays arrays(DType::kBF16);
  AddRmsNormParams norm;
  norm.dtype = DType::kBF16;
  norm.num_tokens = kTokens;
  norm.hidden = kWidth;
  norm.eps = 1e-5f;
  norm.x = arrays.Random(kTokens * kWidth, 2);
  norm.delta = arrays.Random(kTokens * kWidth, 2);
  norm.weight = arrays.Random(kWidth, 1);
  norm.out = arrays.Random(kTokens * kWidth, 1);
  arrays.Save();
  for (const auto& backend : Backends()) {
    arrays.Restore();
    ASSERT_TRUE(backend->Run(norm, arrays.arena()).ok());
    const std::vector<float> together = arrays.Read(norm.out, kTokens * kWidth);
    arrays.Restore();
    for (int token = 0; token < kTokens; ++token) {
      AddRmsNormParams one = norm;
      one.num_tokens = 1;
      one.x = static_cast<char*>(norm.x) + token * kRow;
      one.delta = static_cast<const char*>(norm.delta) + token * kRow;
      one.out = static_cast<char*>(norm.out) + token * kRow;
      ASSERT_TRUE(backend->Run(one, arrays.arena()).ok());
    }
    EXPECT_EQ(arrays.Read(norm.out, kTokens * kWidth), together) << backend->name();
  }
}

TEST(PointwiseTest, NormalisesInPlaceOfTheDelta) {
  Arrays arrays(DType::kBF16);
  AddRmsNormParams params;
  params.dtype = DType::kBF16;
  params.num_tokens = 2;
  params.hidden = 64;
  params.eps = 1e-6f;
  params.x = arrays.Random(128, 1);
  params.delta = arrays.Random(128, 1);
  params.weight = arrays.Random(64, 1);
  params.out = arrays.Random(128, 1);
  arrays.Save();
  for (const auto& backend : Backends()) {
    arrays.Restore();
    ASSERT_TRUE(backend->Run(params, arrays.arena()).ok());
    const std::vector<float> expected = arrays.Read(params.out, 128);
    arrays.Restore();
    AddRmsNormParams in_place = params;
    in_place.out = const_cast<void*>(params.delta);
    ASSERT_TRUE(backend->Run(in_place, arrays.arena()).ok());
    EXPECT_EQ(arrays.Read(in_place.out, 128), expected) << backend->name();
  }
}

// transformers' order of roundings: the sum, the normalised value, the product.
TEST(PointwiseTest, RoundsToBFloat16AfterEveryStep) {
  constexpr int kWidth = 16;
  Arena arena(1 << 16);
  auto* x = arena.Allocate<BF16>(kWidth);
  auto* delta = arena.Allocate<BF16>(kWidth);
  auto* weight = arena.Allocate<BF16>(kWidth);
  auto* out = arena.Allocate<BF16>(kWidth);
  for (int i = 0; i < kWidth; ++i) {
    RoundTo(1.0f, delta + i);
    RoundTo(1.0078125f, weight + i);
  }
  AddRmsNormParams params;
  params.dtype = DType::kBF16;
  params.num_tokens = 1;
  params.hidden = kWidth;
  params.eps = 1e-12f;
  params.x = x;
  params.delta = delta;
  params.weight = weight;
  params.out = out;
  for (const auto& backend : Backends()) {
    SCOPED_TRACE(backend->name());
    // 256 + 1 is a tie in bfloat16 and stays 256; the others become 3.
    for (int i = 0; i < kWidth; ++i) RoundTo(i == 0 ? 256.0f : 2.0f, x + i);
    ASSERT_TRUE(backend->Run(params, &arena).ok());
    EXPECT_EQ(ToFloat(x[0]), 256.0f);
    EXPECT_EQ(ToFloat(x[1]), 3.0f);
    // sqrt((65536 + 15 * 9) / 16) = 64.0659: 256 / that is 3.99589, in bfloat16 4; 3 / that 0.0468268, 0.046875.
    EXPECT_EQ(ToFloat(out[0]), 4.03125f);
    EXPECT_EQ(ToFloat(out[1]), 0.04736328125f);  // 193.5 * 2^-12, a tie, to even
  }
}

}  // namespace
}  // namespace spotlight::kernels::testing
