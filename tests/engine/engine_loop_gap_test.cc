// How long running streams wait for their next token while long prompts arrive, on a fake GPU's clock.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

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
    for (int32_t i = 0; i < streams; ++i) Submit(Request("s" + std::to_string(i), 4000), PromptIds(300, 40 + i));
    for (int pass = 0; pass < 100; ++pass) ASSERT_TRUE(loop_->RunOnce());
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

}  // namespace
}  // namespace spotlight::engine
