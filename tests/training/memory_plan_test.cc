#include "training/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/status/status.h"

namespace spotlight::training {
namespace {

using ::testing::HasSubstr;

MemoryNeeds Needs() {
  MemoryNeeds needs;
  needs.device = "cuda:0";
  needs.weight_bytes = 5'000'000'000;
  needs.step_bytes = 2'000'000'000;
  needs.pass_bytes = 1'000'000'000;
  needs.sequence_bytes = 100'000'000;
  needs.num_sequences = 50;
  needs.num_heldout = 4;
  needs.num_samples = 4;
  return needs;
}

TEST(MemoryPlanTest, KeepsAllWhereThereIsRoom) {
  const auto plan = PlanMemory(Needs(), 20'000'000'000, 0);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->sequences_on_device, 50);
  EXPECT_EQ(plan->sequences_on_host, 0);
  EXPECT_EQ(plan->device_bytes, 8'800'000'000);
}

TEST(MemoryPlanTest, FillsTheDeviceThenTheHostThenRunsTheModelAgain) {
  // Room for 12 on the device; pinned memory is handed out in powers of two: 134 MB each.
  const auto plan = PlanMemory(Needs(), 5'000'000'000, 1'400'000'000);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->sequences_on_device, 12);
  EXPECT_EQ(plan->sequences_on_host, 10);
  EXPECT_EQ(plan->host_bytes, 10LL << 27);
  EXPECT_EQ(DescribeMemory(Needs(), *plan, 5'000'000'000),
            "memory on cuda:0: 5.00 GB of weights, 2.00 GB for a step, 1.00 GB for the model's pass; 50 sequences of "
            "100.0 MB, 12 kept there, 10 in 1.34 GB of host memory, 28 run through the model again whenever they are "
            "used; 5.00 GB of the 5.00 GB free in all");
}

TEST(MemoryPlanTest, KeepsNothingThatIsUsedOnce) {
  MemoryNeeds needs = Needs();
  needs.sequences_recur = false;
  const auto plan = PlanMemory(needs, 20'000'000'000, 1'000'000'000);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->sequences_on_device + plan->sequences_on_host, 0);
  EXPECT_THAT(DescribeMemory(needs, *plan, 1), HasSubstr("each used once and not kept"));
}

TEST(MemoryPlanTest, RefusesWithTheNumbers) {
  const auto plan = PlanMemory(Needs(), 3'700'000'000, 100'000'000'000);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(
      std::string(plan.status().message()),
      HasSubstr("memory on cuda:0: training needs 3.80 GB (a step 2.00 GB, the model's pass 1.00 GB, 8 sequences "
                "of 100.0 MB) beside the model's 5.00 GB, and 3.70 GB are free"));
}

TEST(MemoryPlanTest, SaysThatTheUsersBoundIsWhatIsMissing) {
  MemoryNeeds needs = Needs();
  needs.limited = true;
  EXPECT_THAT(std::string(PlanMemory(needs, 3'700'000'000, 0).status().message()),
              HasSubstr("and 3.70 GB are left of --max-memory; shorter sequences need less"));
  EXPECT_THAT(DescribeMemory(needs, *PlanMemory(needs, 5'000'000'000, 0), 5'000'000'000),
              HasSubstr("of the 5.00 GB left of --max-memory"));
}

}  // namespace
}  // namespace spotlight::training
