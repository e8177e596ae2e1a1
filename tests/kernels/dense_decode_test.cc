// dense_decode on every backend of the build, against the reference.
#include "kernels/dense_decode.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/numeric.h"
#include "kernels/reference/dense_decode.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/decode_case.h"

namespace spotlight::kernels::testing {
namespace {

std::vector<float> OutputOf(const std::vector<float>& output, const DecodeCase& test, int32_t row) {
  const int64_t elements = static_cast<int64_t>(output.size()) / test.num_rows();
  return std::vector<float>(output.begin() + row * elements, output.begin() + (row + 1) * elements);
}

class DenseDecodeShapeTest : public ::testing::TestWithParam<std::tuple<DType, int, int>> {};

TEST_P(DenseDecodeShapeTest, EqualsReference) {
  DecodeShape shape;
  std::tie(shape.dtype, shape.group, shape.head_dim) = GetParam();
  shape.context_len = {1, 0, 2, 15, 17, 63, 64, 65, 127, 128, 1001, 2100};
  DecodeCase test(shape);
  reference::DenseDecode(test.Dense());
  const std::vector<float> expected = test.Output();
  for (const auto& backend : Backends()) {
    test.ClearOutput();
    const absl::Status status = backend->Run(test.Dense(), test.arena());
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_LE(RelativeNorm(test.Output(), expected), Tolerance(shape.dtype)) << backend->name();
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, DenseDecodeShapeTest,
                         ::testing::Combine(::testing::Values(DType::kF32, DType::kBF16, DType::kF16),
                                            ::testing::Values(1, 2, 3, 4, 5, 6, 7, 8, 12, 16),
                                            ::testing::Values(64, 128)));

class DenseDecodeE4m3Test : public DenseDecodeShapeTest {};

TEST_P(DenseDecodeE4m3Test, EqualsReference) {
  DecodeShape shape;
  std::tie(shape.dtype, shape.group, shape.head_dim) = GetParam();
  shape.context_len = {1, 0, 2, 15, 17, 63, 64, 65, 127, 128, 1001, 2100};
  shape.e4m3_pages = true;
  DecodeCase test(shape);
  reference::DenseDecode(test.Dense());
  const std::vector<float> expected = test.Output();
  for (const auto& backend : Backends()) {
    test.ClearOutput();
    const absl::Status status = backend->Run(test.Dense(), test.arena());
    if (!HasE4m3Pages(*backend, shape.dtype)) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
      continue;
    }
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_LE(RelativeNorm(test.Output(), expected), Tolerance(shape.dtype)) << backend->name();
    // Rows of one or two tokens weigh a few tokens' scales.
    for (const int32_t row : {0, 2}) {
      EXPECT_LE(RelativeNorm(OutputOf(test.Output(), test, row), OutputOf(expected, test, row)), Tolerance(shape.dtype))
          << backend->name() << " row " << row;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, DenseDecodeE4m3Test,
                         ::testing::Combine(::testing::Values(DType::kF32, DType::kBF16),
                                            ::testing::Values(1, 3, 6, 7, 8, 12, 16), ::testing::Values(64, 128)));

// Values of e4m3 up to almost 2^64, and down to 2^-40: weights times scales leave the range of no type.
TEST(DenseDecodeTest, TakesLargeAndSmallScales) {
  for (const int exponent : {58, -40}) {
    DecodeShape shape;
    shape.dtype = DType::kBF16;
    shape.group = 7;
    shape.head_dim = 128;
    shape.context_len = {1001, 3, 64};
    shape.e4m3_pages = true;
    DecodeCase test(shape);
    const DenseDecodeParams params = test.Dense();
    const int64_t entries = int64_t{params.pages.num_pages} * params.num_kv_heads * kPageTokens;
    for (int64_t entry = 0; entry < entries; ++entry) {
      float* const scale = params.pages.kv_scale + 2 * entry + 1;
      *scale = std::ldexp(*scale, exponent);
    }
    reference::DenseDecode(params);
    const std::vector<float> expected = test.Output();
    for (const auto& backend : Backends()) {
      test.ClearOutput();
      ASSERT_TRUE(backend->Run(params, test.arena()).ok());
      EXPECT_LE(RelativeNorm(test.Output(), expected), Tolerance(shape.dtype)) << backend->name() << " 2^" << exponent;
    }
  }
}

TEST(DenseDecodeTest, WritesZerosForAPaddingRow) {
  DecodeShape shape;
  shape.context_len = {0, 40, 0};
  DecodeCase test(shape);
  for (const auto& backend : Backends()) {
    test.ClearOutput();
    ASSERT_TRUE(backend->Run(test.Dense(), test.arena()).ok());
    EXPECT_EQ(test.OutputBytes(0), std::vector<char>(test.OutputBytes(0).size(), 0)) << backend->name();
    EXPECT_EQ(test.OutputBytes(2), test.OutputBytes(0)) << backend->name();
  }
}

// A prompt's rows share one page table and differ in length; each must get the bits that a decode row of that length
// gets, in whatever company.
TEST(DenseDecodeTest, GivesAPromptRowTheBitsOfADecodeRow) {
  for (const auto& [dtype, e4m3] :
       {std::pair(DType::kF32, false), std::pair(DType::kBF16, false), std::pair(DType::kBF16, true)}) {
    DecodeShape shape;
    shape.dtype = dtype;
    shape.e4m3_pages = e4m3;
    shape.context_len.assign(150, 1);
    shape.context_len[0] = 700;
    DecodeCase test(shape);
    auto* lengths = test.arena()->Allocate<int32_t>(150);
    for (int32_t row = 0; row < 150; ++row) lengths[row] = 551 + row;
    for (const auto& backend : Backends()) {
      DenseDecodeParams prompt = test.Dense();
      prompt.rows_per_table = 150;
      prompt.context_len = lengths;
      const absl::Status status = backend->Run(prompt, test.arena());
      ASSERT_TRUE(status.ok()) << status;
      std::vector<std::vector<char>> together;
      for (int32_t row = 0; row < 150; ++row) together.push_back(test.OutputBytes(row));
      test.ClearOutput();
      for (const int32_t row : {0, 1, 25, 74, 75, 148, 149}) {
        DenseDecodeParams decode = test.Dense();
        const int64_t offset = row * int64_t{decode.num_q_heads} * decode.head_dim * SizeOf(dtype);
        decode.num_rows = 1;
        decode.q = static_cast<const char*>(decode.q) + offset;
        decode.out = static_cast<char*>(decode.out) + offset;
        decode.context_len = lengths + row;
        ASSERT_TRUE(backend->Run(decode, test.arena()).ok());
        EXPECT_EQ(test.OutputBytes(row), together[row]) << backend->name() << " row " << row;
      }
    }
  }
}

TEST(DenseDecodeTest, StaysFiniteForLargeLogits) {
  DecodeShape shape;
  shape.context_len = {900};
  DecodeCase test(shape);
  DenseDecodeParams params = test.Dense();
  params.softmax_scale = 40;  // logits of several thousand: one token takes all
  reference::DenseDecode(params);
  const std::vector<float> expected = test.Output();
  for (const auto& backend : Backends()) {
    test.ClearOutput();
    ASSERT_TRUE(backend->Run(params, test.arena()).ok());
    EXPECT_LE(RelativeNorm(test.Output(), expected), 1e-3) << backend->name();
  }
}

// Multiplies every key of the first row's tokens by scale(token).
template <class Scale>
void ScaleKeys(const DenseDecodeParams& params, DType dtype, int32_t context_len, const Scale& scale) {
  for (int32_t token = 0; token < context_len; ++token) {
    for (int32_t head = 0; head < params.num_kv_heads; ++head) {
      const int64_t page = params.page_table[token / kPageTokens];
      const int64_t entry = (page * params.num_kv_heads + head) * kPageTokens + token % kPageTokens;
      for (int32_t i = 0; i < params.head_dim; ++i) {
        const int64_t element = entry * 2 * params.head_dim + i;
        StoreElement(LoadElement(params.pages.kv, dtype, element) * scale(token), params.pages.kv, dtype, element);
      }
    }
  }
}

// Online softmax where the largest logit keeps moving, comes first, comes last, or never stands out: weights must
// neither overflow nor vanish in the storage type.
TEST(DenseDecodeTest, FollowsTheLargestLogit) {
  constexpr int32_t kTokens = 3000;
  const auto rising = [](int32_t token) { return 8.0f * token / kTokens; };
  const auto falling = [](int32_t token) { return 8.0f * (kTokens - token) / kTokens; };
  const auto waves = [](int32_t token) { return 4.0f + 4.0f * std::sin(token * 0.01f); };
  const auto level = [](int32_t) { return 0.0f; };
  const std::vector<float (*)(int32_t)> scales = {rising, falling, waves, level};
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (size_t i = 0; i < scales.size(); ++i) {
      DecodeShape shape;
      shape.dtype = dtype;
      shape.group = 7;
      shape.head_dim = 128;
      shape.context_len = {kTokens};
      DecodeCase test(shape);
      ScaleKeys(test.Dense(), dtype, kTokens, scales[i]);
      reference::DenseDecode(test.Dense());
      const std::vector<float> expected = test.Output();
      for (const auto& backend : Backends()) {
        test.ClearOutput();
        ASSERT_TRUE(backend->Run(test.Dense(), test.arena()).ok());
        EXPECT_LE(RelativeNorm(test.Output(), expected), Tolerance(dtype)) << backend->name() << " scale " << i;
      }
    }
  }
}

// Rows of very different lengths, more than one pass takes: each gets the bits it gets alone.
class DenseDecodeBatchTest : public ::testing::TestWithParam<bool> {};

TEST_P(DenseDecodeBatchTest, GivesARowTheSameBitsInAnyBatch) {
  DecodeShape shape;
  shape.dtype = DType::kBF16;
  shape.e4m3_pages = GetParam();
  shape.group = 7;
  shape.head_dim = 128;
  for (int32_t row = 0; row < 70; ++row) shape.context_len.push_back(row % 9 == 0 ? 2500 + 37 * row : 1 + 19 * row);
  DecodeCase test(shape);
  for (const auto& backend : Backends()) {
    test.ClearOutput();
    ASSERT_TRUE(backend->Run(test.Dense(), test.arena()).ok());
    std::vector<std::vector<char>> together;
    for (int32_t row = 0; row < test.num_rows(); ++row) together.push_back(test.OutputBytes(row));
    for (const int32_t row : {0, 1, 9, 33, 63, 64, 69}) {
      DenseDecodeParams alone = test.Dense();
      const int64_t offset = row * int64_t{alone.num_q_heads} * alone.head_dim * SizeOf(shape.dtype);
      alone.num_rows = 1;
      alone.q = static_cast<const char*>(alone.q) + offset;
      alone.out = static_cast<char*>(alone.out) + offset;
      alone.page_table += int64_t{row} * alone.max_pages;
      alone.context_len += row;
      test.ClearOutput();
      ASSERT_TRUE(backend->Run(alone, test.arena()).ok());
      EXPECT_EQ(test.OutputBytes(row), together[row]) << backend->name() << " row " << row;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Pages, DenseDecodeBatchTest, ::testing::Bool());

}  // namespace
}  // namespace spotlight::kernels::testing
