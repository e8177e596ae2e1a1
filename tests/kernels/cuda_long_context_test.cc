// Rows of 100,000 to 300,000 tokens, or many of fewer, on a device only: selections exactly, outputs against double.
#include <gtest/gtest.h>

#include "kernels/reference/dense_decode.h"
#include "tests/kernels/backend.h"
#include "tests/kernels/decode_case.h"
#include "tests/kernels/sparse_decode_checks.h"

namespace spotlight::kernels::testing {
namespace {

void ExpectSparseMatches(const DecodeShape& shape) {
  DecodeCase test(shape);
  SparseDecodeParams params = test.Sparse();
  for (const bool prefilter : {false, true}) {
    SCOPED_TRACE(prefilter ? "prefilter" : "plain");
    params.prefilter = prefilter;
    ExpectMatchesReference(&test, params);
  }
}

TEST(CudaLongContextTest, SelectsTheBestOfABatchOfLongRows) {
  DecodeShape shape;
  shape.dtype = DType::kBF16;
  shape.head_dim = 128;
  shape.group = 7;
  shape.context_len = {300000, 7, 100001};
  shape.max_select = 6100;
  ExpectSparseMatches(shape);
}

TEST(CudaLongContextTest, SelectsForAGroupOfSymmetricCodes) {
  DecodeShape shape;
  shape.dtype = DType::kF16;
  shape.symmetric = true;
  shape.num_kv_heads = 1;
  shape.hash_words = 8;
  shape.context_len = {250000, 160001};
  shape.max_select = 6100;
  ExpectSparseMatches(shape);
}

// Rows of the batch that are judged alone must have the batch's bits.
void ExpectRowsAsAlone(DecodeCase* test, const SparseDecodeParams& params, std::initializer_list<int32_t> rows) {
  std::vector<SparseResult> batches;
  for (const auto& backend : Backends()) {
    test->ClearOutput();
    const absl::Status status = backend->Run(params, test->arena());
    ASSERT_TRUE(status.ok()) << status;
    batches.push_back(ResultOf(*test));
  }
  for (const int32_t row : rows) {
    ExpectMatchesReference(test, RowsOf(params, row, 1));
    for (const SparseResult& batch : batches) {
      EXPECT_TRUE(test->OutputBytes(row) == batch.output[row]) << row;
      for (int32_t head = 0; head < params.num_kv_heads; ++head) {
        EXPECT_TRUE(test->Selected(row, head) == batch.selected[params.num_kv_heads * row + head]) << row;
      }
    }
  }
}

// More scores than a chip holds in shared memory.
TEST(CudaLongContextTest, SelectsForManyLongRows) {
  DecodeShape shape;
  shape.dtype = DType::kBF16;
  shape.group = 1;
  shape.num_kv_heads = 4;
  shape.shared_pages = true;
  shape.context_len.clear();
  for (int32_t row = 0; row < 34; ++row) shape.context_len.push_back(131072 - row * 37);
  shape.max_select = 2700;
  DecodeCase test(shape);
  for (const bool prefilter : {false, true}) {
    SparseDecodeParams params = test.Sparse();
    params.prefilter = prefilter;
    ExpectRowsAsAlone(&test, params, {0, 9, 33});
  }
}

// Rows, tokens of the longest, tokens selected, and the longest that the call is made for; on a chip of 132
// multiprocessors: three runs a block, shared among warps; six, each with more tokens than a tile for every sum, and a
// warp for each; seven or eight of one tile a sum; and the kernel for many runs with four or five in a block, and with
// one.
class CudaSharedBlockTest : public ::testing::TestWithParam<std::tuple<int32_t, int32_t, int32_t, int32_t>> {};

TEST_P(CudaSharedBlockTest, AttendsToRowsAsToEachAlone) {
  const auto [num_rows, longest, num_select, max_context] = GetParam();
  DecodeShape shape;
  shape.dtype = DType::kBF16;
  shape.head_dim = 128;
  shape.group = 7;
  shape.num_kv_heads = 4;
  shape.shared_pages = true;
  shape.max_context = max_context;
  shape.context_len.clear();
  for (int32_t row = 0; row < num_rows; ++row) shape.context_len.push_back(longest - row * 37);
  shape.max_select = num_select;
  DecodeCase test(shape);
  test.SelectEverywhere(num_select);
  ExpectRowsAsAlone(&test, test.Sparse(), {0, num_rows - 1});
}

INSTANTIATE_TEST_SUITE_P(Rows, CudaSharedBlockTest,
                         ::testing::Values(std::tuple(3, 131072, 2622, 131072), std::tuple(6, 131072, 5300, 131072),
                                           std::tuple(63, 18800, 376, 18800), std::tuple(7, 90000, 1800, 131072),
                                           std::tuple(8, 20000, 400, 131072)));

class CudaLongWinnersTest : public ::testing::TestWithParam<std::tuple<Codes, int>> {};

TEST_P(CudaLongWinnersTest, AreFoundWhereverTheyLie) {
  DecodeShape shape;
  std::tie(shape.codes, shape.hash_words) = GetParam();
  shape.dtype = DType::kBF16;
  shape.group = 1;
  shape.num_kv_heads = 1;
  shape.context_len = {262144, 199999};
  shape.max_select = 6100;
  ExpectSparseMatches(shape);
}

INSTANTIATE_TEST_SUITE_P(Codes, CudaLongWinnersTest,
                         ::testing::Combine(::testing::Values(Codes::kEqual, Codes::kFewBits, Codes::kOneRegion,
                                                              Codes::kLastCandidates, Codes::kEvery33rdPage),
                                            ::testing::Values(2, 4)));

// Far more tokens than any budget: lists of 50,000 and more are selected, split and combined.
TEST(CudaLongContextTest, FollowsALargeBudget) {
  DecodeShape shape;
  shape.dtype = DType::kBF16;
  shape.group = 2;
  shape.num_kv_heads = 1;
  shape.context_len = {150000, 120000, 3000};
  for (const int32_t num_select : {29999, 60000, 149000}) {
    DecodeCase test(shape);
    test.SelectEverywhere(num_select);
    SparseDecodeParams params = test.Sparse();
    params.prefilter = num_select < 40000;
    ExpectMatchesReference(&test, params);
  }
}

TEST(CudaLongContextTest, AttendsToEverythingInDouble) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    DecodeShape shape;
    shape.dtype = dtype;
    shape.group = 1;
    shape.num_kv_heads = 1;
    shape.head_dim = dtype == DType::kF32 ? 64 : 128;
    shape.context_len = {300000, 1, 100000};
    shape.max_select = 1;
    DecodeCase test(shape);
    reference::DenseDecode(test.Dense());
    const std::vector<float> expected = test.Output();
    for (const auto& backend : Backends()) {
      SCOPED_TRACE(backend->name());
      test.ClearOutput();
      const ArenaCopy before(*test.arena());
      const absl::Status status = backend->Run(test.Dense(), test.arena());
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_TRUE(test.OnlyOutputsChanged(before));
      ExpectCloseByHead(test, test.Output(), expected);
    }
  }
}

}  // namespace
}  // namespace spotlight::kernels::testing
