#include "engine/active_request.h"

#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testing/recording_sink.h"
#include "tests/testing/tiny_model.h"

namespace spotlight::engine {
namespace {

TEST(ActiveRequestTest, SamplesShareTheirPrompt) {
  Submission submission;
  submission.request.request_id = "a";
  SamplingParams* const sampling = &submission.request.sampling;
  sampling->repetition_penalty = 1.5f;
  sampling->seed = 7;
  sampling->n = kMaxSamples;
  submission.request.stopping.max_tokens = 10;
  submission.prompt_token_ids = {1, 2, 2};
  submission.distinct_prompt_token_ids = {1, 2};
  submission.sink = std::make_shared<RecordingSink>();
  const auto samples = ActiveRequest::Create(&submission, 1, TinyModelInfo(), /*tokenizer=*/nullptr, 100);
  ASSERT_TRUE(samples.ok()) << samples.status();
  ASSERT_EQ(samples->size(), size_t{kMaxSamples});
  const Sequence& first = *samples->front()->sequence();
  EXPECT_EQ(first.prompt_token_ids.ids(), (std::vector<int32_t>{1, 2, 2}));
  for (const auto& sample : *samples) {
    EXPECT_EQ(&sample->sequence()->prompt_token_ids.ids(), &first.prompt_token_ids.ids());
    EXPECT_EQ(&sample->sequence()->distinct_prompt_token_ids.ids(), &first.distinct_prompt_token_ids.ids());
  }
}

}  // namespace
}  // namespace spotlight::engine
