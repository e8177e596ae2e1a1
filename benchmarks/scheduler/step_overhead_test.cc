#include "benchmarks/scheduler/step_overhead.h"

#include "gtest/gtest.h"

namespace spotlight::benchmarks {
namespace {

TEST(StepOverheadTest, OneStepGivesATokenToEveryStream) {
  const auto tokenizer = engine::Tokenizer::Load("tests/testdata/tiny-llama/tokenizer.json");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  StepOverheadOptions options;
  options.num_steps = 1;
  const auto overhead = MeasureStepOverhead(options, **tokenizer);
  ASSERT_TRUE(overhead.ok()) << overhead.status();
  EXPECT_EQ(overhead->num_tokens, 2 * 32);  // prefill's and the step's
  EXPECT_GT(overhead->mean_us, 0);
}

}  // namespace
}  // namespace spotlight::benchmarks
