// What becomes of a step whose graph cannot be captured.
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <string>

#include "engine/decode_graphs.h"

namespace spotlight::engine {
namespace {

constexpr int32_t kMaxContext = 256;

// `rows` dense rows that decode.
Batch DecodeBatch(int32_t rows) {
  Batch batch;
  batch.num_dense_rows = batch.num_decode_rows = batch.num_rows = rows;
  batch.max_pages = 1;
  batch.query_begin.push_back(0);
  for (int32_t row = 0; row < rows; ++row) {
    batch.token_ids.push_back(0);
    batch.positions.push_back(row);
    batch.slots.push_back(row);
    batch.query_begin.push_back(row + 1);
    batch.context_len.push_back(row + 1);
    batch.num_select.push_back(0);
    batch.page_table.push_back(0);
    batch.samples.emplace_back().token_index = row;
  }
  return batch;
}

class GraphCapturesCudaTest : public ::testing::Test {
 protected:
  static StepCapacity Capacity() {
    StepCapacity capacity;
    capacity.max_tokens = capacity.max_rows = 8;
    capacity.max_pages = 4;
    return capacity;
  }

  // The steps of a kind that come before one that captures.
  void TakeFirstSteps(const Batch& batch) {
    for (int step = 0; step < 2; ++step) {
      absl::optional<absl::Status> capture;
      EXPECT_FALSE(graphs_.Captures(batch));
      EXPECT_FALSE(graphs_.Prepare(batch, &capture));
      EXPECT_FALSE(capture.has_value());
    }
    EXPECT_TRUE(graphs_.Captures(batch));
  }

  // Each capture calls it twice, the second time to be captured.
  absl::Status Forward(const StepTensors& step) {
    ++num_calls_;
    step.token_ids.add_(1);
    if (num_calls_ % 2 != 0) return absl::OkStatus();
    TORCH_CHECK_WITH(OutOfMemoryError, !throws_, "no memory, says the allocator");
    return result_;
  }

  const c10::InferenceMode no_autograd_;
  const c10::cuda::CUDAStreamGuard on_stream_{c10::cuda::getStreamFromPool(/*isHighPriority=*/true, 0)};
  StepInputs inputs_{Capacity(), at::Device(at::kCUDA, 0)};
  DecodeGraphs graphs_{
      &inputs_, Capacity(), {}, kMaxContext, [this](const StepTensors& step) { return Forward(step); }};
  int num_calls_ = 0;
  bool throws_ = false;
  absl::Status result_;
};

TEST_F(GraphCapturesCudaTest, TheThirdStepOfAKindCapturesAndSaysSo) {
  TakeFirstSteps(DecodeBatch(2));
  EXPECT_TRUE(graphs_.Awaits(DecodeBatch(2)));
  for (const bool first : {true, false}) {
    absl::optional<absl::Status> capture;
    EXPECT_TRUE(graphs_.Prepare(DecodeBatch(2), &capture));
    EXPECT_EQ(capture, first ? absl::make_optional(absl::OkStatus()) : absl::nullopt);
    EXPECT_FALSE(graphs_.Awaits(DecodeBatch(2)));
    EXPECT_TRUE(graphs_.Run(DecodeBatch(2), {}).ok());
  }
  EXPECT_EQ(num_calls_, 2);
  c10::cuda::getCurrentCUDAStream().synchronize();
}

TEST_F(GraphCapturesCudaTest, ACaptureThatFailsIsTriedOnceAndSaysWhy) {
  for (const bool throws : {false, true}) {
    const Batch batch = DecodeBatch(throws ? 4 : 2);
    throws_ = throws;
    result_ = absl::ResourceExhaustedError("no memory");
    TakeFirstSteps(batch);
    for (const bool first : {true, false}) {
      EXPECT_EQ(graphs_.Captures(batch), first);
      EXPECT_EQ(graphs_.Awaits(batch), first);
      absl::optional<absl::Status> capture;
      EXPECT_FALSE(graphs_.Prepare(batch, &capture));
      ASSERT_EQ(capture.has_value(), first);
      if (!first) continue;
      EXPECT_TRUE(absl::IsResourceExhausted(*capture)) << *capture;
      EXPECT_EQ(capture->message(),
                throws ? "capture failed: out of memory: no memory, says the allocator" : "no memory");
    }
  }
  EXPECT_EQ(num_calls_, 4);
  // Nothing is left of them: other kinds have their graphs.
  throws_ = false;
  result_ = absl::OkStatus();
  TakeFirstSteps(DecodeBatch(1));
  absl::optional<absl::Status> capture;
  EXPECT_TRUE(graphs_.Prepare(DecodeBatch(1), &capture));
  EXPECT_TRUE(graphs_.Run(DecodeBatch(1), {}).ok());
  c10::cuda::getCurrentCUDAStream().synchronize();
}

}  // namespace
}  // namespace spotlight::engine
