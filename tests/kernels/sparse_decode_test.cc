// sparse_decode on every backend of the build, against the reference: shapes, budgets, batches, repetition.
#include "kernels/sparse_decode.h"

#include <gtest/gtest.h>

#include "kernels/budget.h"
#include "kernels/reference/sparse_decode.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/decode_case.h"
#include "tests/kernels/sparse_decode_checks.h"

namespace spotlight::kernels::testing {
namespace {

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

INSTANTIATE_TEST_SUITE_P(Types, SparseDecodeShapeTest,
                         ::testing::Combine(::testing::Values(DType::kF32, DType::kF16),
                                            ::testing::Values(1, 3, 4, 6, 7, 8, 16), ::testing::Values(64, 128),
                                            ::testing::Values(4)));
INSTANTIATE_TEST_SUITE_P(Words, SparseDecodeShapeTest,
                         ::testing::Combine(::testing::Values(DType::kBF16), ::testing::Values(1, 3, 4, 6, 7, 8, 16),
                                            ::testing::Values(64, 128), ::testing::Values(1, 2, 4, 8)));

class SparseDecodeE4m3Test : public ::testing::TestWithParam<std::tuple<int, int, int>> {};

TEST_P(SparseDecodeE4m3Test, EqualsReference) {
  DecodeShape shape;
  shape.dtype = DType::kBF16;
  shape.e4m3_pages = true;
  std::tie(shape.group, shape.head_dim, shape.hash_words) = GetParam();
  shape.context_len = {1, 0, 63, 64, 65, 132, 133, 200, 640, 1001};
  for (const bool prefilter : {false, true}) {
    SCOPED_TRACE(prefilter ? "prefilter" : "plain");
    DecodeCase test(shape);
    SparseDecodeParams params = test.Sparse();
    params.prefilter = prefilter;
    ExpectMatchesReference(&test, params);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, SparseDecodeE4m3Test,
                         ::testing::Combine(::testing::Values(1, 3, 6, 7, 8, 16), ::testing::Values(64, 128),
                                            ::testing::Values(2, 4)));

TEST(SparseDecodeTest, TakesE4m3PagesBesideFloatsOnTheCpu) {
  DecodeShape shape;
  shape.e4m3_pages = true;
  shape.context_len = {500, 129, 70};
  DecodeCase test(shape);
  for (const auto& backend : Backends()) {
    if (HasE4m3Pages(*backend, shape.dtype)) continue;
    EXPECT_EQ(backend->Run(test.Sparse(), test.arena()).code(), absl::StatusCode::kInvalidArgument);
    return;
  }
  ExpectMatchesReference(&test, test.Sparse());
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

// Every number of candidates and of selected ones around the sizes of words, warps, pages and blocks.
TEST(SparseDecodeTest, SelectsAnyNumberOfAnyNumber) {
  DecodeShape shape;
  shape.group = 1;
  shape.num_kv_heads = 1;
  for (const int32_t candidates : {1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 257, 1023, 1024, 1025, 2047}) {
    shape.context_len.assign(8, candidates + kSinkTokens + kRecentTokens);
    DecodeCase test(shape);
    SparseDecodeParams params = test.Sparse();
    auto* num_select = const_cast<int32_t*>(params.num_select);
    const int32_t budgets[] = {1,          2,      candidates / 5, candidates / 4, candidates / 2, candidates - 1,
                               candidates, 1 << 30};
    std::copy(std::begin(budgets), std::end(budgets), num_select);
    for (const bool prefilter : {false, true}) {
      SCOPED_TRACE(::testing::Message() << candidates << " candidates" << (prefilter ? ", prefilter" : ""));
      params.prefilter = prefilter;
      ExpectMatchesReference(&test, params);
    }
  }
}

TEST(SparseDecodeTest, ReadsPagesThatRowsShare) {
  DecodeShape shape;
  shape.context_len = {3000, 2999, 64, 1500, 3000, 0, 1};
  shape.shared_pages = true;
  DecodeCase test(shape);
  ExpectMatchesReference(&test, test.Sparse());
}

TEST(SparseDecodeTest, DropsSelectedTokensPastMaxSelect) {
  DecodeShape shape;
  shape.context_len = {2000, 90, 5000};
  shape.max_select = 70;
  DecodeCase test(shape);
  SparseDecodeParams params = test.Sparse();
  ExpectMatchesReference(&test, params);
  EXPECT_EQ(test.NumSelected(2, 1), 100);
  params.selected = nullptr;
  params.max_select = 0;
  ExpectMatchesReference(&test, params);
  params.num_selected = nullptr;
  ExpectMatchesReference(&test, params);
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
  DecodeCase test(shape);
  test.SelectEverywhere(0);
  ExpectMatchesReference(&test, test.Sparse());
  EXPECT_EQ(test.NumSelected(1, 0), 0);
  EXPECT_EQ(test.Selected(1, 0), std::vector<int32_t>(1100, -1));
}

TEST(SparseDecodeTest, StaysFiniteForLargeLogits) {
  DecodeShape shape;
  shape.context_len = {5000, 900};
  DecodeCase test(shape);
  SparseDecodeParams params = test.Sparse();
  params.softmax_scale = 40;  // logits of several thousand: one token takes all
  reference::SparseDecode(params);
  const std::vector<float> expected = test.Output();
  for (const auto& backend : Backends()) {
    test.ClearOutput();
    ASSERT_TRUE(backend->Run(params, test.arena()).ok());
    EXPECT_LE(RelativeNorm(test.Output(), expected), 1e-3) << backend->name();
  }
}

// Batches of which every row has the bits that it has alone: five rows, many rows, one long row among many short ones.
class SparseDecodeBatchTest : public ::testing::TestWithParam<std::tuple<DType, int, int, bool, bool>> {};

TEST_P(SparseDecodeBatchTest, GivesARowTheSameBitsAloneAndInABatch) {
  const auto [dtype, num_rows, longest, prefilter, e4m3] = GetParam();
  DecodeShape shape;
  shape.dtype = dtype;
  shape.e4m3_pages = e4m3;
  shape.group = 2;
  shape.num_kv_heads = longest > 10000 ? 1 : 2;
  shape.max_select = longest / 50 + 100;
  shape.context_len.clear();
  for (int row = 0; row < num_rows; ++row) shape.context_len.push_back(row % 9 == 4 ? 0 : 1 + row * 7919 % 1200);
  shape.context_len[num_rows / 2] = longest;
  DecodeCase test(shape);
  SparseDecodeParams params = test.Sparse();
  params.prefilter = prefilter;
  ExpectMatchesReference(&test, params);
  for (const auto& backend : Backends()) {
    SCOPED_TRACE(backend->name());
    test.ClearOutput();
    ASSERT_TRUE(backend->Run(params, test.arena()).ok());
    const SparseResult batch = ResultOf(test);
    for (int32_t row = num_rows / 2 % 7; row<num_rows; row += num_rows> 100 ? 35 : 7) {
      for (const bool shorter : {false, true}) {  // the workspace may be laid out for this row alone
        test.ClearOutput();
        SparseDecodeParams alone = RowsOf(params, row, 1);
        if (shorter) alone.max_context = std::max(1, shape.context_len[row]);
        ASSERT_TRUE(backend->Run(alone, test.arena()).ok());
        ASSERT_TRUE(test.OutputBytes(row) == batch.output[row]) << "row " << row;
        for (int32_t head = 0; head < shape.num_kv_heads; ++head) {
          ASSERT_TRUE(test.Selected(row, head) == batch.selected[row * shape.num_kv_heads + head]) << "row " << row;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Batches, SparseDecodeBatchTest,
                         ::testing::Values(std::tuple(DType::kF32, 5, 1200, false, false),
                                           std::tuple(DType::kBF16, 90, 1200, false, false),
                                           std::tuple(DType::kBF16, 5, 30000, true, false),
                                           std::tuple(DType::kF16, 300, 2000, false, false),
                                           std::tuple(DType::kBF16, 210, 70000, false, false),
                                           std::tuple(DType::kF16, 210, 70000, true, false),
                                           std::tuple(DType::kBF16, 90, 30000, false, true),
                                           std::tuple(DType::kBF16, 210, 70000, true, true)));

TEST(SparseDecodeTest, GivesTheSameBitsAHundredTimes) {
  for (const bool prefilter : {false, true}) {
    DecodeShape shape;
    shape.dtype = DType::kBF16;
    shape.head_dim = 128;
    shape.group = 7;
    shape.num_kv_heads = 1;
    shape.context_len = {4000, 1, 700};
    DecodeCase test(shape);
    SparseDecodeParams params = test.Sparse();
    params.prefilter = prefilter;
    for (const auto& backend : Backends()) {
      ASSERT_TRUE(backend->Run(params, test.arena()).ok());
      const SparseResult first = ResultOf(test);
      for (int i = 1; i < 100; ++i) {
        test.ClearOutput();
        ASSERT_TRUE(backend->Run(params, test.arena()).ok());
        ASSERT_TRUE(ResultOf(test) == first) << backend->name() << " run " << i;
      }
    }
  }
}

TEST(SparseDecodeTest, ReportsStageTimes) {
  DecodeShape shape;
  shape.context_len = {20000, 300};
  DecodeCase test(shape);
  auto* stages = test.arena()->Allocate<SparseDecodeStages>(1);
  for (const auto& backend : Backends()) {
    *stages = {-1, -1, -1};
    SparseDecodeParams params = test.Sparse();
    params.stage_seconds = stages;
    const absl::Status status = backend->Run(params, test.arena());
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_GT(stages->score, 0) << backend->name();
    EXPECT_GT(stages->select, 0);
    EXPECT_GT(stages->attend, 0);
    const double sum = stages->score + stages->select + stages->attend;
    EXPECT_LT(sum, 10);
    if (backend->name().rfind("cuda", 0) == 0) {
      EXPECT_GT(stages->begin_ns, 0u);
      EXPECT_NEAR(1e-9 * static_cast<double>(stages->end_ns - stages->begin_ns), sum, 1e-9);
    }
  }
}

}  // namespace
}  // namespace spotlight::kernels::testing
