// How long running streams wait for their next token while long prompts arrive, on a fake GPU's clock.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "engine/short_chunk.h"
#include "tests/engine/engine_loop_fixture.h"

namespace spotlight::engine {
namespace {

// A step's time: 5 ms of weights, 0.1 ms a decode row, and what its prompts take: 20 us a token at first, twice that
// after 16K tokens.
absl::Duration TimeOf(const Batch& batch) {
  double us = 5000 + 100.0 * batch.num_decode_rows;
  for (int32_t row = batch.num_decode_rows; row < batch.num_rows; ++row) {
    const int32_t tokens = batch.query_begin[row + 1] - batch.query_begin[row];
    us += tokens * (20 + 20.0 * batch.context_len[row] / 16384);
  }
  return absl::Microseconds(us);
}

double Percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * (values.size() - 1))];
}

class EngineLoopGapTest : public EngineLoopTest {
 protected:
  EngineLoopGapTest() {
    options_.scheduler.num_pages = 2048;
    options_.scheduler.max_step_tokens = 8192;
    options_.scheduler.prefix_cache = false;
  }

  void StartWithStreams(int32_t streams) {
    ModelInfo model = TinyModelInfo();
    model.max_context_tokens = 131072;
    Start(model);
    runner_->OnRun([this](const Batch& batch) { clock_.Advance(TimeOf(batch)); });
    if (overlap_) OverlapSteps();
    for (int32_t i = 0; i < streams; ++i) Submit(Request("s" + std::to_string(i), 4000), PromptIds(300, 40 + i));
    for (int pass = 0; pass < 100; ++pass) ASSERT_TRUE(loop_->RunOnce());
  }

  // Two steps under way; to launch the first chunk after started_ takes 40 ms.
  void OverlapSteps() {
    runner_->SetMaxInFlight(2);
    runner_->OnRun([this](const Batch& batch) {
      const bool is_first = !launched_long_ && batch.num_rows > batch.num_decode_rows && started_;
      clock_.Advance(is_first ? absl::Milliseconds(40) : absl::Microseconds(50));
      launched_long_ |= is_first;
      ends_.push_back(std::max(ends_.empty() ? last_end_ : ends_.back(), clock_.Now()) + TimeOf(batch));
    });
    runner_->OnWait([this] {
      last_end_ = ends_.front();
      ends_.pop_front();
      clock_.Advance(std::max(absl::ZeroDuration(), last_end_ - clock_.Now()));
    });
  }

  // Of the steps recorded from `first` on.
  std::vector<double> Gaps(size_t first) const {
    const std::vector<StepStats> steps = observer_.steps();
    std::vector<double> gaps;
    for (size_t i = first; i < steps.size(); ++i) {
      gaps.insert(gaps.end(), steps[i].inter_token_seconds.begin(), steps[i].inter_token_seconds.end());
    }
    return gaps;
  }

  bool overlap_ = false, started_ = false, launched_long_ = false;
  std::deque<absl::Duration> ends_;  // of the steps under way
  absl::Duration last_end_ = absl::ZeroDuration();
};

TEST_F(EngineLoopGapTest, ALongPromptMakesTokensWaitNoMoreThanThreeSteps) {
  StartWithStreams(4);
  const double usual = Percentile(Gaps(50), 0.5);
  const size_t first = observer_.steps().size();
  const auto sink = Submit(Request("long", 1), PromptIds(65536, 3));
  for (int pass = 0; pass < 3000 && !sink->finished(); ++pass) ASSERT_TRUE(loop_->RunOnce());
  ASSERT_TRUE(sink->finished());
  const std::vector<double> gaps = Gaps(first);
  EXPECT_LE(Percentile(gaps, 0.99), 3 * usual);
  EXPECT_GE(Percentile(gaps, 0.5), 2 * usual) << "the prompt could have gone faster";
}

TEST_F(EngineLoopGapTest, AChunkThatIsLaunchedSlowlyIsNotTakenForASlowStepBeforeIt) {
  overlap_ = true;
  StartWithStreams(4);
  const double usual = Percentile(Gaps(50), 0.5);
  const size_t first = observer_.steps().size();
  started_ = true;
  const auto sink = Submit(Request("long", 1), PromptIds(65536, 3));
  for (int pass = 0; pass < 3000 && !sink->finished(); ++pass) ASSERT_TRUE(loop_->RunOnce());
  ASSERT_TRUE(sink->finished());
  EXPECT_TRUE(launched_long_);
  EXPECT_LE(Percentile(Gaps(first), 0.98), 3 * usual);
}

// The first two steps with one short chunk take 40 ms more than those from graphs that follow.
TEST_F(EngineLoopGapTest, StepsThatAwaitTheirGraphTeachNothing) {
  options_.scheduler.max_token_gap_seconds = 0.0075;
  StartWithStreams(4);
  int num_short = 0;
  std::vector<int32_t> chunks;
  const auto has_short = [](const Batch& batch) {
    return batch.num_rows == batch.num_decode_rows + 1 && batch.num_tokens() - batch.num_decode_rows <= kMaxShortChunk;
  };
  runner_->AwaitGraphs([&](const Batch& batch) { return has_short(batch) && num_short < 2; });
  runner_->OnRun([&](const Batch& batch) {
    clock_.Advance(TimeOf(batch));
    if (!has_short(batch)) return;
    if (++num_short <= 2) clock_.Advance(absl::Milliseconds(40));
    chunks.push_back(batch.num_tokens() - batch.num_decode_rows);
  });
  Submit(Request("long", 1), PromptIds(8192, 3));
  for (int pass = 0; pass < 30; ++pass) ASSERT_TRUE(loop_->RunOnce());
  ASSERT_GT(chunks.size(), 20u);
  for (size_t i = 2; i < chunks.size(); ++i) EXPECT_GE(chunks[i], 32) << i;
}

TEST_F(EngineLoopGapTest, AGivenGapIsKept) {
  options_.scheduler.max_token_gap_seconds = 0.1;
  StartWithStreams(2);
  const size_t first = observer_.steps().size();
  const auto sink = Submit(Request("long", 1), PromptIds(65536, 3));
  for (int pass = 0; pass < 3000 && !sink->finished(); ++pass) ASSERT_TRUE(loop_->RunOnce());
  ASSERT_TRUE(sink->finished());
  const std::vector<double> gaps = Gaps(first);
  EXPECT_LE(Percentile(gaps, 0.99), 0.1);
  EXPECT_GE(Percentile(gaps, 0.5), 0.06);
}

// As under a tool that makes every launch slow: a step that is replayed from a graph takes 0.1 s, another one 0.6 s,
// more than three of the first.
TEST_F(EngineLoopGapTest, AGivenGapLetsPromptsInWhereOnlyReplayedStepsAreFast) {
  constexpr int kPrompts = 40;
  std::vector<double> seconds;
  for (const double gap : {0.0, 2.0}) {
    options_.scheduler.max_token_gap_seconds = gap;
    options_.scheduler.max_running = 64;
    loop_.reset();  // before what it uses
    StartWithStreams(2);
    runner_->OnRun([this](const Batch& batch) {
      const int32_t prefill = batch.num_tokens() - batch.num_decode_rows;
      const bool replayed = batch.num_rows <= batch.num_decode_rows + 1 && prefill <= kMaxShortChunk;
      clock_.Advance(absl::Milliseconds(replayed ? 100 : 600));
    });
    const absl::Duration begin = clock_.Now();
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (int i = 0; i < kPrompts; ++i) {
      sinks.push_back(Submit(Request("p" + std::to_string(i), 50), PromptIds(300, 100 + i)));
    }
    const auto is_over = [](const auto& sink) { return sink->finished(); };
    for (int pass = 0; pass < 3000 && !std::all_of(sinks.begin(), sinks.end(), is_over); ++pass) {
      ASSERT_TRUE(loop_->RunOnce());
    }
    ASSERT_TRUE(std::all_of(sinks.begin(), sinks.end(), is_over));
    seconds.push_back(absl::ToDoubleSeconds(clock_.Now() - begin));
  }
  EXPECT_GT(seconds[0], 3 * seconds[1]);
  EXPECT_LT(seconds[1], 20);
}

}  // namespace
}  // namespace spotlight::engine
