// What a captured graph is made for, without a GPU: buckets and padding.
#include "engine/decode_graphs.h"

#include <gtest/gtest.h>

#include <vector>

namespace spotlight::engine {
namespace {

TEST(DecodeGraphsTest, BucketsHoldTheirRowsAndWasteLittle) {
  constexpr int32_t kMaxRows = 300;
  int32_t buckets = 0, last = 0;
  for (int32_t rows = 1; rows <= kMaxRows; ++rows) {
    const int32_t bucket = DecodeGraphs::Bucket(rows, kMaxRows);
    EXPECT_GE(bucket, rows);
    EXPECT_LE(bucket, kMaxRows);
    EXPECT_LT(bucket, rows <= 8 ? 2 * rows : rows + std::max(8, rows / 8)) << rows;
    EXPECT_EQ(DecodeGraphs::Bucket(bucket, kMaxRows), bucket);
    buckets += bucket != last ? 1 : 0;
    last = bucket;
  }
  EXPECT_LT(buckets, 32);
  EXPECT_EQ(DecodeGraphs::Bucket(0, kMaxRows), 0);
  EXPECT_EQ(DecodeGraphs::Bucket(5, 6), 6);
}

TEST(DecodeGraphsTest, PaddingTakesNoStepBeyondWhatChangesItsNumbers) {
  for (const int32_t max_rows : {6, 16, 32, 64}) {
    for (int32_t dense = 0; dense <= max_rows; ++dense) {
      for (int32_t sparse = 0; dense + sparse <= max_rows; ++sparse) {
        const auto [dense_bucket, sparse_bucket] = DecodeGraphs::KeyFor(dense, sparse, max_rows);
        ASSERT_GE(dense_bucket, dense);
        ASSERT_GE(sparse_bucket, sparse);
        for (const int32_t limit : {16, 32, max_rows}) {
          ASSERT_EQ(dense_bucket + sparse_bucket <= limit, dense + sparse <= limit) << dense << " and " << sparse;
        }
      }
    }
  }
  EXPECT_EQ(DecodeGraphs::KeyFor(1, 31, 64), DecodeGraphs::Key(1, 31));
  EXPECT_EQ(DecodeGraphs::KeyFor(0, 5, 64), DecodeGraphs::Key(0, 8));
}

// Two dense rows and one sparse row.
Batch MixedBatch() {
  Batch batch;
  batch.num_dense_rows = 2;
  batch.num_decode_rows = batch.num_rows = 3;
  batch.token_ids = {11, 12, 13};
  batch.positions = {4, 5, 70};
  batch.slots = {64, 65, 200};
  batch.context_len = {5, 6, 71};
  batch.num_select = {0, 0, 3};
  batch.max_pages = 2;
  batch.page_table = {1, 0, 1, 0, 2, 3};
  batch.query_begin = {0, 1, 2, 3};
  return batch;
}

TEST(DecodeGraphsTest, PaddingKeepsRowsOfAKindTogether) {
  Batch padded;
  PadDecodeBatch(MixedBatch(), 4, 2, &padded);
  EXPECT_EQ(padded.num_dense_rows, 4);
  EXPECT_EQ(padded.num_decode_rows, 6);
  EXPECT_EQ(padded.num_rows, 6);
  EXPECT_EQ(padded.token_ids, (std::vector<int32_t>{11, 12, 0, 0, 13, 0}));
  EXPECT_EQ(padded.positions, (std::vector<int32_t>{4, 5, 0, 0, 70, 0}));
  EXPECT_EQ(padded.slots, (std::vector<int64_t>{64, 65, -1, -1, 200, -1}));
  EXPECT_EQ(padded.context_len, (std::vector<int32_t>{5, 6, 0, 0, 71, 0}));
  EXPECT_EQ(padded.num_select, (std::vector<int32_t>{0, 0, 0, 0, 3, 0}));
  EXPECT_EQ(padded.page_table, (std::vector<int32_t>{1, 0, 1, 0, 0, 0, 0, 0, 2, 3, 0, 0}));
  EXPECT_EQ(padded.query_begin, (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6}));
  ASSERT_EQ(padded.samples.size(), 6u);
  for (int32_t row = 0; row < 6; ++row) EXPECT_EQ(padded.samples[row].token_index, row);
}

TEST(DecodeGraphsTest, SamplesOfPaddingHaveNoOutput) {
  Batch padded;
  PadDecodeBatch(MixedBatch(), 4, 2, &padded);
  std::vector<kernels::SampleRowParams> rows(3), padded_rows;
  for (int32_t row = 0; row < 3; ++row) rows[row].out = row;
  PadSampleRows(rows, MixedBatch(), padded, &padded_rows);
  ASSERT_EQ(padded_rows.size(), 6u);
  const int32_t out[] = {0, 1, -1, -1, 2, -1};
  for (int32_t row = 0; row < 6; ++row) EXPECT_EQ(padded_rows[row].out, out[row]) << row;
}

TEST(DecodeGraphsTest, ABatchOfNothingPadsToPaddingAlone) {
  Batch padded;
  PadDecodeBatch(MixedBatch(), 4, 2, &padded);
  PadDecodeBatch(Batch(), 0, 2, &padded);
  EXPECT_EQ(padded.num_dense_rows, 0);
  EXPECT_EQ(padded.slots, (std::vector<int64_t>{-1, -1}));
  EXPECT_EQ(padded.context_len, (std::vector<int32_t>{0, 0}));
  EXPECT_EQ(padded.page_table, (std::vector<int32_t>{0, 0}));
}

TEST(DecodeGraphsTest, ServesBatchesWhoseRowsAreOneSampleEachAndRetrieveAlike) {
  Batch batch = MixedBatch();
  batch.samples.resize(3);
  EXPECT_TRUE(IsPlainDecode(batch));
  EXPECT_FALSE(IsPlainDecode(Batch()));

  const auto refused = [&](auto change) {
    Batch other = batch;
    change(&other);
    return !IsPlainDecode(other);
  };
  EXPECT_TRUE(refused([](Batch* b) { b->samples.pop_back(); }));
  EXPECT_TRUE(refused([](Batch* b) { b->scored.resize(1); }));
  EXPECT_TRUE(refused([](Batch* b) { ++b->num_rows; }));
  EXPECT_FALSE(refused([](Batch* b) { b->time_retrieval = true; }));
  EXPECT_FALSE(refused([](Batch* b) { b->quality = QualityTarget(); }));
  EXPECT_TRUE(refused([](Batch* b) { b->sparse_runs = {{3, 0, 64}}; }));
}

}  // namespace
}  // namespace spotlight::engine
