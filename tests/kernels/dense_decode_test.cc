// dense_decode on every backend of the build, against the reference.
#include "kernels/dense_decode.h"

#include <gtest/gtest.h>

#include "kernels/reference/dense_decode.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/decode_case.h"

namespace spotlight::kernels::testing {
namespace {

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
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    DecodeShape shape;
    shape.dtype = dtype;
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

}  // namespace
}  // namespace spotlight::kernels::testing
