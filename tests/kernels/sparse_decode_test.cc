// sparse_decode on every backend of the build, against the reference.
#include "kernels/sparse_decode.h"

#include <gtest/gtest.h>

#include "kernels/budget.h"
#include "kernels/reference/sparse_decode.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/decode_case.h"

namespace spotlight::kernels::testing {
namespace {

// Runs the reference, then every backend, and compares: selections index by index, outputs by relative norm.
void ExpectMatchesReference(DecodeCase* test, const SparseDecodeParams& params) {
  test->ClearOutput();
  reference::SparseDecode(params);
  const std::vector<float> expected = test->Output();
  std::vector<std::vector<int32_t>> selected;
  std::vector<int32_t> num_selected;
  const int32_t heads = test->shape().num_kv_heads;
  for (int32_t row = 0; row < test->num_rows(); ++row) {
    for (int32_t head = 0; head < heads; ++head) {
      selected.push_back(test->Selected(row, head));
      num_selected.push_back(test->NumSelected(row, head));
    }
  }
  for (const auto& backend : Backends()) {
    SCOPED_TRACE(backend->name());
    test->ClearOutput();
    ASSERT_TRUE(backend->Run(params, test->arena()).ok()) << backend->Run(params, test->arena());
    EXPECT_LE(RelativeNorm(test->Output(), expected), Tolerance(test->shape().dtype));
    for (int32_t row = 0; row < test->num_rows(); ++row) {
      for (int32_t head = 0; head < heads; ++head) {
        EXPECT_EQ(test->Selected(row, head), selected[row * heads + head]) << "row " << row << " head " << head;
        EXPECT_EQ(test->NumSelected(row, head), num_selected[row * heads + head]);
      }
    }
  }
}

class SparseDecodeShapeTest : public ::testing::TestWithParam<std::tuple<DType, int, int, int>> {};

// Page boundaries, ragged tails, one token, a padding row, rows under the budget's minimum: all in one batch.
TEST_P(SparseDecodeShapeTest, EqualsReference) {
  DecodeShape shape;
  std::tie(shape.dtype, shape.group, shape.head_dim, shape.hash_words) = GetParam();
  shape.context_len = {1, 0, 63, 64, 65, 132, 133, 200, 640, 1001};
  for (const bool prefilter : {false, true}) {
    SCOPED_TRACE(prefilter ? "prefilter" : "plain");
    DecodeCase test(shape);
    SparseDecodeParams params = test.Sparse();
    params.prefilter = prefilter;
    ExpectMatchesReference(&test, params);
  }
}

INSTANTIATE_TEST_SUITE_P(Groups, SparseDecodeShapeTest,
                         ::testing::Combine(::testing::Values(DType::kF32, DType::kBF16, DType::kF16),
                                            ::testing::Values(1, 3, 4, 6, 7, 8, 16), ::testing::Values(64, 128),
                                            ::testing::Values(4)));
INSTANTIATE_TEST_SUITE_P(HashWords, SparseDecodeShapeTest,
                         ::testing::Combine(::testing::Values(DType::kF32), ::testing::Values(3), ::testing::Values(64),
                                            ::testing::Values(1, 2, 8)));

TEST(SparseDecodeTest, SelectsAsASortDoesForEveryNumberOfPlanes) {
  for (int num_planes = 1; num_planes <= kMaxPlanes; ++num_planes) {
    for (const int words : {1, 2, 4, 8}) {
      SCOPED_TRACE(::testing::Message() << "J " << num_planes << " W " << words);
      DecodeShape shape;
      shape.num_planes = num_planes;
      shape.top_plane_weight = (1 << (num_planes - 1)) - (num_planes > 1 ? 1 : 0);
      shape.hash_words = words;
      shape.context_len = {777, 1500};
      shape.seed = num_planes * 10 + words;
      DecodeCase test(shape);
      SparseDecodeParams params = test.Sparse();
      ExpectMatchesReference(&test, params);
      params.prefilter = true;
      ExpectMatchesReference(&test, params);
    }
  }
}

TEST(SparseDecodeTest, BreaksTiesByLowestIndex) {
  for (const Codes codes : {Codes::kEqual, Codes::kFewBits}) {
    for (const bool prefilter : {false, true}) {
      DecodeShape shape;
      shape.codes = codes;
      shape.context_len = {150, 2500, 5003};
      DecodeCase test(shape);
      SparseDecodeParams params = test.Sparse();
      params.prefilter = prefilter;
      ExpectMatchesReference(&test, params);
      if (codes != Codes::kEqual) continue;
      const std::vector<int32_t> selected = test.Selected(2, 1);
      for (int32_t i = 0; i < NumSelected(Budget(), 5003); ++i) ASSERT_EQ(selected[i], kSinkTokens + i);
    }
  }
}

TEST(SparseDecodeTest, FollowsSinksRecentTokensAndOddBudgets) {
  DecodeShape shape;
  shape.context_len = {500, 129, 70};
  for (const int32_t num_select : {1, 2, 31, 65, 400}) {
    for (const auto& [sinks, recent] : {std::pair(0, 1), std::pair(64, 64), std::pair(5, 100), std::pair(0, 0)}) {
      SCOPED_TRACE(::testing::Message() << "K " << num_select << " sinks " << sinks << " recent " << recent);
      DecodeCase test(shape);
      test.SelectEverywhere(num_select);
      SparseDecodeParams params = test.Sparse();
      params.sink_tokens = sinks;
      params.recent_tokens = recent;
      for (const bool prefilter : {false, true}) {
        params.prefilter = prefilter;
        ExpectMatchesReference(&test, params);
      }
    }
  }
}

TEST(SparseDecodeTest, EqualsDenseWhenEveryCandidateIsSelected) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    DecodeShape shape;
    shape.dtype = dtype;
    shape.context_len = {69, 300, 1100, 2049};
    for (const auto& backend : Backends()) {
      DecodeCase test(shape);
      ASSERT_TRUE(backend->Run(test.Dense(), test.arena()).ok());
      const std::vector<float> dense = test.Output();
      test.SelectEverywhere(1 << 20);
      test.ClearOutput();
      ASSERT_TRUE(backend->Run(test.Sparse(), test.arena()).ok());
      EXPECT_LE(RelativeNorm(test.Output(), dense), Tolerance(dtype)) << backend->name() << NameOf(dtype);
      EXPECT_EQ(test.NumSelected(3, 0), 2049 - kSinkTokens - kRecentTokens);
    }
  }
}

TEST(SparseDecodeTest, AttendsToEverythingWhenNumSelectIsZero) {
  DecodeShape shape;
  shape.context_len = {1, 300, 1100};
  for (const auto& backend : Backends()) {
    DecodeCase test(shape);
    ASSERT_TRUE(backend->Run(test.Dense(), test.arena()).ok());
    const std::vector<float> dense = test.Output();
    test.SelectEverywhere(0);
    test.ClearOutput();
    ASSERT_TRUE(backend->Run(test.Sparse(), test.arena()).ok());
    EXPECT_EQ(test.Output(), dense) << backend->name();
    EXPECT_EQ(test.NumSelected(1, 0), 0);
    EXPECT_EQ(test.Selected(1, 0), std::vector<int32_t>(1100, -1));
  }
}

TEST(SparseDecodeTest, GivesARowTheSameBitsAloneAndInABatch) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int num_rows : {5, 90}) {
      DecodeShape shape;
      shape.dtype = dtype;
      for (int row = 0; row < num_rows; ++row) shape.context_len.push_back(1 + row * 7919 % 1200);
      shape.context_len[1] = 1200;
      DecodeCase test(shape);
      for (const auto& backend : Backends()) {
        ASSERT_TRUE(backend->Run(test.Sparse(), test.arena()).ok());
        std::vector<std::vector<char>> batch;
        for (int32_t row = 0; row < test.num_rows(); ++row) batch.push_back(test.OutputBytes(row));
        test.ClearOutput();
        for (int32_t row = 0; row < test.num_rows(); row += 3) {
          SparseDecodeParams params = test.Sparse();
          const int64_t heads = params.num_kv_heads;
          const int64_t offset = row * int64_t{params.num_q_heads} * params.head_dim * SizeOf(dtype);
          params.num_rows = 1;
          params.q = static_cast<const char*>(params.q) + offset;
          params.out = static_cast<char*>(params.out) + offset;
          params.planes += row * heads * params.num_planes * params.hash_words;
          params.page_table += int64_t{row} * params.max_pages;
          params.context_len += row;
          params.num_select += row;
          params.selected += row * heads * params.max_select;
          params.num_selected += row * heads;
          ASSERT_TRUE(backend->Run(params, test.arena()).ok());
          EXPECT_EQ(test.OutputBytes(row), batch[row]) << backend->name() << " row " << row;
        }
      }
    }
  }
}

TEST(SparseDecodeTest, ReportsStageTimes) {
  DecodeShape shape;
  shape.context_len = {4000};
  DecodeCase test(shape);
  for (const auto& backend : Backends()) {
    SparseDecodeStages stages{-1, -1, -1};
    SparseDecodeParams params = test.Sparse();
    params.stage_seconds = &stages;
    ASSERT_TRUE(backend->Run(params, test.arena()).ok());
    EXPECT_GT(stages.score, 0) << backend->name();
    EXPECT_GT(stages.select, 0);
    EXPECT_GT(stages.attend, 0);
    EXPECT_LT(stages.score + stages.select + stages.attend, 10);
  }
}

}  // namespace
}  // namespace spotlight::kernels::testing
