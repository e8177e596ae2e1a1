// What a captured graph is made for, without a GPU: buckets and padding.
#include "engine/decode_graphs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "engine/scheduler.h"
#include "engine/short_chunk.h"
#include "kernels/layout.h"

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

TEST(DecodeGraphsTest, UsualRowsAreTheBucketsOrTheSmallestOfThem) {
  EXPECT_EQ(DecodeGraphs::UsualRows(20, 100), (std::vector<int32_t>{20, 16, 8, 4, 2, 1}));
  EXPECT_EQ(DecodeGraphs::UsualRows(16, 100), (std::vector<int32_t>{16, 8, 4, 2, 1}));
  EXPECT_EQ(DecodeGraphs::UsualRows(1, 100), (std::vector<int32_t>{1}));
  EXPECT_EQ(DecodeGraphs::UsualRows(20, 3), (std::vector<int32_t>{4, 2, 1}));
  EXPECT_TRUE(DecodeGraphs::UsualRows(20, 0).empty());
  for (const int32_t max_rows : {7, 64, 4096}) {
    const std::vector<int32_t> rows = DecodeGraphs::UsualRows(max_rows, 1000);
    EXPECT_EQ(rows.front(), max_rows);
    EXPECT_EQ(rows.back(), 1);
    for (int32_t each = 1; each <= max_rows; ++each) {
      const int32_t bucket = DecodeGraphs::Bucket(each, max_rows);
      EXPECT_EQ(std::count(rows.begin(), rows.end(), bucket), 1) << each << " of " << max_rows;
    }
  }
}

TEST(DecodeGraphsTest, PaddingTakesNoStepBeyondWhatChangesItsNumbers) {
  for (const int32_t max_rows : {6, 16, 32, 64}) {
    for (int32_t dense = 0; dense <= max_rows; ++dense) {
      for (int32_t sparse = 0; dense + sparse <= max_rows; ++sparse) {
        const GraphKey key = DecodeGraphs::KeyFor(dense, sparse, max_rows);
        const int32_t dense_bucket = key.dense_rows, sparse_bucket = key.sparse_rows;
        ASSERT_EQ(key.chunk_tokens, 0);
        ASSERT_GE(dense_bucket, dense);
        ASSERT_GE(sparse_bucket, sparse);
        for (const int32_t limit : {16, 32, max_rows}) {
          ASSERT_EQ(dense_bucket + sparse_bucket <= limit, dense + sparse <= limit) << dense << " and " << sparse;
        }
      }
    }
  }
  EXPECT_EQ(DecodeGraphs::KeyFor(1, 31, 64), (GraphKey{1, 31}));
  EXPECT_EQ(DecodeGraphs::KeyFor(0, 5, 64), (GraphKey{0, 8}));
}

TEST(DecodeGraphsTest, ShortChunksFillTheirKernelsBlocks) {
  EXPECT_EQ(ShortChunksFor(7, /*e4m3_pages=*/false), (std::vector<int32_t>{18, 36, 54, 73, 91, 109, 128}));
  EXPECT_EQ(ShortChunksFor(4, /*e4m3_pages=*/false), (std::vector<int32_t>{32, 64, 96, 128}));
  EXPECT_EQ(ShortChunksFor(1, /*e4m3_pages=*/false), (std::vector<int32_t>{32, 128}));
  for (int32_t group = 1; group <= kernels::kMaxGroup; ++group) {
    const std::vector<int32_t> lengths = ShortChunksFor(group, /*e4m3_pages=*/false);
    EXPECT_LE(lengths.size(), 9u);
    EXPECT_LE(lengths.front(), 32);
    EXPECT_EQ(lengths.back(), kMaxShortChunk);
    for (size_t i = 1; i < lengths.size(); ++i) EXPECT_LT(lengths[i - 1], lengths[i]) << group;
  }
  const std::vector<int32_t> lengths = {18, 36, 128};
  EXPECT_EQ(ShortChunkFor(1, lengths), 18);
  EXPECT_EQ(ShortChunkFor(36, lengths), 36);
  EXPECT_EQ(ShortChunkFor(37, lengths), 128);
  EXPECT_EQ(ShortChunkWithin(17, lengths), 18);
  EXPECT_EQ(ShortChunkWithin(127, lengths), 36);
  EXPECT_EQ(ShortChunkWithin(128, lengths), 128);
}

// What no graph is captured for has one length, the longest, and the scheduler takes it.
TEST(DecodeGraphsTest, ChunksThatGatherTheirPastAreNotShort) {
  for (int32_t group = 1; group <= kernels::kMaxGroup; ++group) {
    SchedulerOptions options;
    options.num_pages = 1;
    options.short_chunks = ShortChunksFor(group, /*e4m3_pages=*/true);
    EXPECT_EQ(options.short_chunks, std::vector<int32_t>{kMaxShortChunk});
    EXPECT_EQ(ShortChunkWithin(1, options.short_chunks), kMaxShortChunk);
    EXPECT_TRUE(Scheduler::CheckOptions(options).ok());
  }
}

TEST(DecodeGraphsTest, RowsBesideAChunkHaveFewBucketsAndLeaveItARow) {
  for (const int32_t max_rows : {2, 9, 32, 33, 100}) {
    for (int32_t dense = 0; dense < max_rows; ++dense) {
      for (int32_t sparse = 0; dense + sparse < max_rows; ++sparse) {
        const GraphKey key = DecodeGraphs::KeyBesideChunk(dense, sparse, 32, {4096, max_rows, 1});
        ASSERT_GE(key.dense_rows, dense);
        ASSERT_GE(key.sparse_rows, sparse);
        ASSERT_LT(key.decode_rows(), max_rows);
        ASSERT_EQ(key.dense_rows == 0, dense == 0);
        ASSERT_EQ(key.sparse_rows == 0, sparse == 0);
        ASSERT_EQ(key.chunk_tokens, 32);
      }
    }
  }
  EXPECT_EQ(DecodeGraphs::KeyBesideChunk(3, 9, 16, {4096, 64, 1}), (GraphKey{8, 16, 16}));
  EXPECT_EQ(DecodeGraphs::KeyBesideChunk(0, 20, 128, {4096, 32, 1}), (GraphKey{0, 31, 128}));
}

TEST(DecodeGraphsTest, RowsBesideAChunkLeaveItsTokensRoom) {
  constexpr StepCapacity kCapacity = {160, 150, 1};
  for (const int32_t chunk : {16, 32, 128}) {
    for (int32_t dense = 0; dense <= 149; ++dense) {
      for (int32_t sparse = 0; dense + sparse <= 149; ++sparse) {
        const GraphKey key = DecodeGraphs::KeyBesideChunk(dense, sparse, chunk, kCapacity);
        ASSERT_GE(key.dense_rows, dense);
        ASSERT_GE(key.sparse_rows, sparse);
        ASSERT_LE(key.decode_rows(), std::max(dense + sparse, std::min(149, 160 - chunk)));
      }
    }
  }
  EXPECT_EQ(DecodeGraphs::KeyBesideChunk(0, 20, 128, kCapacity), (GraphKey{0, 32, 128}));
  EXPECT_EQ(DecodeGraphs::KeyBesideChunk(20, 5, 128, kCapacity), (GraphKey{27, 5, 128}));
  EXPECT_EQ(DecodeGraphs::KeyBesideChunk(70, 0, 32, kCapacity), (GraphKey{128, 0, 32}));
  EXPECT_EQ(DecodeGraphs::KeyBesideChunk(130, 3, 32, kCapacity), (GraphKey{130, 3, 32})) << "does not fit as it is";
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
  PadBatch(MixedBatch(), {4, 2}, &padded);
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

// The same, and behind them three tokens of a prompt.
Batch BatchWithChunk() {
  Batch batch = MixedBatch();
  batch.num_rows = 4;
  for (int32_t i = 0; i < 3; ++i) {
    batch.token_ids.push_back(21 + i);
    batch.positions.push_back(64 + i);
    batch.slots.push_back(320 + i);
  }
  batch.context_len.push_back(67);
  batch.num_select.push_back(0);
  batch.page_table.insert(batch.page_table.end(), {4, 5});
  batch.query_begin.push_back(6);
  return batch;
}

TEST(DecodeGraphsTest, AChunkIsPaddedAtItsEnd) {
  Batch padded;
  PadBatch(BatchWithChunk(), {2, 2, 5}, &padded);
  EXPECT_EQ(padded.num_dense_rows, 2);
  EXPECT_EQ(padded.num_decode_rows, 4);
  EXPECT_EQ(padded.num_rows, 5);
  EXPECT_EQ(padded.token_ids, (std::vector<int32_t>{11, 12, 13, 0, 21, 22, 23, 0, 0}));
  EXPECT_EQ(padded.positions, (std::vector<int32_t>{4, 5, 70, 0, 64, 65, 66, -1, -1}));
  EXPECT_EQ(padded.slots, (std::vector<int64_t>{64, 65, 200, -1, 320, 321, 322, -1, -1}));
  EXPECT_EQ(padded.context_len, (std::vector<int32_t>{5, 6, 71, 0, 67}));
  EXPECT_EQ(padded.num_select, (std::vector<int32_t>{0, 0, 3, 0, 0}));
  EXPECT_EQ(padded.page_table, (std::vector<int32_t>{1, 0, 1, 0, 2, 3, 0, 0, 4, 5}));
  EXPECT_EQ(padded.query_begin, (std::vector<int32_t>{0, 1, 2, 3, 4, 9}));
  ASSERT_EQ(padded.samples.size(), 5u);
  for (int32_t row = 0; row < 4; ++row) EXPECT_EQ(padded.samples[row].token_index, row);
  EXPECT_EQ(padded.samples[4].token_index, 6) << "the chunk's last token";
}

TEST(DecodeGraphsTest, AChunkHasAnOutputWhereItEndsItsPrompt) {
  Batch padded;
  PadBatch(BatchWithChunk(), {4, 2, 16}, &padded);
  std::vector<kernels::SampleRowParams> rows(3), padded_rows;
  for (int32_t row = 0; row < 3; ++row) rows[row].out = row;
  const auto outs = [&] {
    PadSampleRows(rows, BatchWithChunk(), padded, &padded_rows);
    std::vector<int32_t> out;
    for (const auto& row : padded_rows) out.push_back(row.out);
    return out;
  };
  EXPECT_EQ(outs(), (std::vector<int32_t>{0, 1, -1, -1, 2, -1, -1}));
  rows.emplace_back().out = 3;
  EXPECT_EQ(outs(), (std::vector<int32_t>{0, 1, -1, -1, 2, -1, 3}));
}

TEST(DecodeGraphsTest, SamplesOfPaddingHaveNoOutput) {
  Batch padded;
  PadBatch(MixedBatch(), {4, 2}, &padded);
  std::vector<kernels::SampleRowParams> rows(3), padded_rows;
  for (int32_t row = 0; row < 3; ++row) rows[row].out = row;
  PadSampleRows(rows, MixedBatch(), padded, &padded_rows);
  ASSERT_EQ(padded_rows.size(), 6u);
  const int32_t out[] = {0, 1, -1, -1, 2, -1};
  for (int32_t row = 0; row < 6; ++row) EXPECT_EQ(padded_rows[row].out, out[row]) << row;
}

TEST(DecodeGraphsTest, ABatchOfNothingPadsToPaddingAlone) {
  Batch padded;
  PadBatch(MixedBatch(), {4, 2}, &padded);
  PadBatch(Batch(), {0, 2}, &padded);
  EXPECT_EQ(padded.num_dense_rows, 0);
  EXPECT_EQ(padded.slots, (std::vector<int64_t>{-1, -1}));
  EXPECT_EQ(padded.context_len, (std::vector<int32_t>{0, 0}));
  EXPECT_EQ(padded.page_table, (std::vector<int32_t>{0, 0}));
}

TEST(DecodeGraphsTest, ServesDecodeRowsThatRetrieveAlikeAndOneShortChunk) {
  Batch batch = MixedBatch();
  batch.samples.resize(3);
  EXPECT_TRUE(FitsGraph(batch));
  EXPECT_FALSE(FitsGraph(Batch()));

  Batch chunk = BatchWithChunk();
  chunk.samples.resize(3);
  EXPECT_TRUE(FitsGraph(chunk));
  chunk.samples.resize(4);
  EXPECT_TRUE(FitsGraph(chunk)) << "the chunk ends its prompt";
  chunk.token_ids.resize(3 + 128);
  EXPECT_TRUE(FitsGraph(chunk));
  chunk.token_ids.resize(3 + 129);
  EXPECT_FALSE(FitsGraph(chunk)) << "too long";
  Batch alone;
  alone.num_rows = 1;
  alone.token_ids = {1, 2};
  EXPECT_TRUE(FitsGraph(alone)) << "a short prompt, or the rest of one that was cached";
  Batch two = BatchWithChunk();
  two.samples.resize(3);
  ++two.num_rows;
  EXPECT_FALSE(FitsGraph(two)) << "two chunks";

  const auto refused = [&](auto change) {
    Batch other = batch;
    change(&other);
    return !FitsGraph(other);
  };
  EXPECT_TRUE(refused([](Batch* b) { b->samples.pop_back(); }));
  EXPECT_TRUE(refused([](Batch* b) { b->scored.resize(1); }));
  EXPECT_FALSE(refused([](Batch* b) { b->time_retrieval = true; }));
  EXPECT_FALSE(refused([](Batch* b) { b->quality = QualityTarget(); }));
  EXPECT_TRUE(refused([](Batch* b) { b->sparse_runs = {{3, 0, 64}}; }));
}

TEST(DecodeGraphsTest, AStepThatIsMeasuredBesideAChunkIsPaddedAndNotReplayed) {
  constexpr StepCapacity kCapacity = {160, 16, 4};
  StepInputs inputs(kCapacity, at::kCPU);
  DecodeGraphs graphs(&inputs, kCapacity, {16, 128}, 1024,
                      [](const StepTensors&) { return absl::InternalError("nothing is captured here"); });
  Batch batch = BatchWithChunk();
  batch.samples.resize(3);
  batch.quality = QualityTarget{2, 1, 7, 0};
  for (int i = 0; i < 4; ++i) {
    EXPECT_FALSE(graphs.Captures(batch));
    absl::optional<absl::Status> capture;
    EXPECT_FALSE(graphs.Prepare(batch, &capture));
    EXPECT_FALSE(capture.has_value());
  }
  ASSERT_TRUE(graphs.Pads(batch));
  const auto step = graphs.CopyPadded(batch, {});
  ASSERT_TRUE(step.ok()) << step.status();
  EXPECT_EQ(step->batch->num_dense_rows, 8);
  EXPECT_EQ(step->batch->num_decode_rows, 15);
  EXPECT_EQ(step->batch->num_tokens(), 15 + 16);
  ASSERT_TRUE(step->batch->quality.has_value());
  EXPECT_EQ(step->batch->quality->row, 8) << "the first sparse one";
  EXPECT_EQ(step->batch->quality->sequence_id, 7u);

  batch.quality.reset();
  EXPECT_FALSE(graphs.CopyPadded(batch, {})->batch->quality.has_value());
  Batch long_one = batch;
  long_one.token_ids.resize(3 + 129);
  EXPECT_FALSE(graphs.Pads(long_one));
}

// Beside a cache that the kernel for short chunks does not read.
TEST(DecodeGraphsTest, WithoutLengthsOfChunksThoseAreNeitherPaddedNorCaptured) {
  constexpr StepCapacity kCapacity = {160, 16, 4};
  StepInputs inputs(kCapacity, at::kCPU);
  DecodeGraphs graphs(&inputs, kCapacity, {}, 1024,
                      [](const StepTensors&) { return absl::InternalError("nothing is captured here"); });
  Batch batch = BatchWithChunk(), rows = MixedBatch();
  batch.samples.resize(3);
  rows.samples.resize(3);
  for (int i = 0; i < 4; ++i) {
    absl::optional<absl::Status> capture;
    EXPECT_FALSE(graphs.Captures(batch));
    EXPECT_FALSE(graphs.Prepare(batch, &capture));
    EXPECT_FALSE(graphs.Pads(batch));
  }
  EXPECT_TRUE(graphs.Pads(rows));
}

TEST(DecodeGraphsTest, TheThirdStepOfAKindCaptures) {
  constexpr StepCapacity kCapacity = {160, 16, 4};
  StepInputs inputs(kCapacity, at::kCPU);
  DecodeGraphs graphs(&inputs, kCapacity, {16, 128}, 1024,
                      [](const StepTensors&) { return absl::InternalError("nothing is captured here"); });
  Batch batch = BatchWithChunk(), other = MixedBatch();
  batch.samples.resize(3);
  other.samples.resize(3);
  for (int i = 0; i < 2; ++i) {
    EXPECT_FALSE(graphs.Captures(batch)) << i;
    EXPECT_FALSE(graphs.Captures(batch)) << "to ask does not count";
    absl::optional<absl::Status> capture;
    EXPECT_FALSE(graphs.Prepare(batch, &capture)) << i;
    EXPECT_FALSE(capture.has_value()) << i;
    EXPECT_FALSE(graphs.Captures(other)) << "each kind by itself";
  }
  EXPECT_TRUE(graphs.Captures(batch));
  EXPECT_FALSE(graphs.Captures(other));
  batch.positions[4] += 64;
  EXPECT_TRUE(graphs.Captures(batch)) << "of the same kind";
}

}  // namespace
}  // namespace spotlight::engine
