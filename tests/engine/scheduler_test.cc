#include "engine/scheduler.h"

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

// Sequences by id, and a model that yields a token wherever one is due.
class SchedulerTest : public testing::Test {
 protected:
  void Start(int32_t num_pages, int32_t max_running, int32_t max_step_tokens) {
    SchedulerOptions options;
    options.num_pages = num_pages;
    options.max_running = max_running;
    options.max_step_tokens = max_step_tokens;
    ASSERT_TRUE(Scheduler::CheckOptions(options).ok());
    scheduler_ = std::make_unique<Scheduler>(options);
  }

  Sequence* Add(int32_t prompt_tokens, int32_t max_output = 1000000) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = next_id_++;
    sequence->prompt_token_ids.assign(prompt_tokens, 7);
    const int64_t cache_tokens = int64_t{scheduler_->pages().num_pages()} * kernels::kPageTokens;
    sequence->max_tokens = static_cast<int32_t>(std::min<int64_t>(int64_t{prompt_tokens} + max_output, cache_tokens));
    Sequence* const raw = sequence.get();
    sequences_[raw->id] = std::move(sequence);
    scheduler_->Add(raw);
    return raw;
  }

  void Finish(Sequence* sequence) {
    scheduler_->Finish(sequence);
    sequences_.erase(sequence->id);
  }

  // Plans and commits one step, and finishes what has all its tokens.
  StepPlan Step() {
    StepPlan plan;
    scheduler_->PlanStep(&plan);
    std::vector<SampledToken> tokens;
    for (const PlanRow& row : plan.rows) {
      if (row.samples) tokens.emplace_back();
    }
    scheduler_->Commit(plan, tokens);
    std::vector<Sequence*> done;
    for (const PlanRow& row : plan.rows) {
      if (row.sequence->num_tokens() >= row.sequence->max_tokens) done.push_back(row.sequence);
    }
    for (Sequence* sequence : done) Finish(sequence);
    return plan;
  }

  std::unique_ptr<Scheduler> scheduler_;
  std::map<uint64_t, std::unique_ptr<Sequence>> sequences_;
  uint64_t next_id_ = 0;
};

TEST_F(SchedulerTest, AnIdleSchedulerPlansNothing) {
  Start(4, 2, 64);
  EXPECT_TRUE(Step().rows.empty());
}

TEST_F(SchedulerTest, ALongPromptIsPrefilledInChunksOfTheBudget) {
  Start(100, 4, 100);
  Sequence* const sequence = Add(250);
  StepPlan plan = Step();
  ASSERT_EQ(plan.rows.size(), 1u);
  EXPECT_EQ(plan.rows[0].num_tokens, 100);
  EXPECT_FALSE(plan.rows[0].samples);
  plan = Step();
  EXPECT_EQ(plan.rows[0].begin, 100);
  plan = Step();
  EXPECT_EQ(plan.rows[0].begin, 200);
  EXPECT_EQ(plan.rows[0].num_tokens, 50);
  EXPECT_TRUE(plan.rows[0].samples);
  EXPECT_EQ(sequence->output_token_ids.size(), 1u);
  plan = Step();
  EXPECT_EQ(plan.num_decode_rows, 1);
  EXPECT_EQ(plan.rows[0].begin, 250);
  EXPECT_EQ(plan.rows[0].num_tokens, 1);
}

TEST_F(SchedulerTest, DecodeRowsComeFirstAndALongPromptStallsNone) {
  Start(100, 4, 64);
  Sequence* const a = Add(10);
  Sequence* const b = Add(10);
  Step();
  Sequence* const long_prompt = Add(1000);
  for (int i = 0; i < 16; ++i) {
    const StepPlan plan = Step();
    ASSERT_EQ(plan.num_decode_rows, 2);
    EXPECT_EQ(plan.rows[0].sequence, a);
    EXPECT_EQ(plan.rows[1].sequence, b);
    ASSERT_EQ(plan.rows.size(), 3u);
    EXPECT_EQ(plan.rows[2].num_tokens, 62);
  }
  EXPECT_EQ(a->output_token_ids.size(), 17u);
  EXPECT_EQ(long_prompt->num_cached, 62 * 16);
}

TEST_F(SchedulerTest, PromptsAreServedFirstComeFirstServed) {
  Start(100, 4, 50);
  Sequence* const a = Add(60);
  Sequence* const b = Add(10);
  StepPlan plan = Step();
  ASSERT_EQ(plan.rows.size(), 1u);
  EXPECT_EQ(plan.rows[0].sequence, a);
  plan = Step();
  ASSERT_EQ(plan.rows.size(), 2u);
  EXPECT_EQ(plan.rows[0].sequence, a);
  EXPECT_EQ(plan.rows[1].sequence, b);
}

TEST_F(SchedulerTest, ASmallRequestDoesNotOvertakeALargeOneThatWaitsForPages) {
  Start(4, 4, 512);
  Add(128);  // 2 pages
  Step();
  Sequence* const large = Add(192);  // 3 pages, not free
  Sequence* const small = Add(1);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(Step().rows.size(), 1u);
  EXPECT_EQ(large->phase, SequencePhase::kWaiting);
  EXPECT_EQ(small->phase, SequencePhase::kWaiting);
}

TEST_F(SchedulerTest, RunsNoMoreThanMaxRunning) {
  Start(100, 3, 64);
  for (int i = 0; i < 5; ++i) Add(4, 10);
  EXPECT_EQ(Step().rows.size(), 3u);
  EXPECT_EQ(scheduler_->num_running(), 3);
  EXPECT_EQ(scheduler_->num_waiting(), 2);
  for (int i = 0; i < 9; ++i) Step();
  EXPECT_EQ(Step().rows.size(), 2u);  // the first three ended
}

TEST_F(SchedulerTest, PreemptsYoungestWhenPagesRunOut) {
  Start(6, 4, 512);
  Sequence* const old = Add(60);
  Sequence* const middle = Add(60);
  Sequence* const young = Add(60);
  Step();
  ASSERT_EQ(scheduler_->num_running(), 3);
  // At 129 tokens each wants a third page, and six hold two each.
  StepPlan plan;
  for (int i = 0; i < 68; ++i) EXPECT_EQ(Step().num_preempted, 0);
  plan = Step();
  EXPECT_EQ(plan.num_preempted, 1);
  EXPECT_EQ(old->phase, SequencePhase::kDecode);
  EXPECT_EQ(middle->phase, SequencePhase::kDecode);
  EXPECT_EQ(young->phase, SequencePhase::kWaiting);
  EXPECT_EQ(plan.num_decode_rows, 2);
}

TEST_F(SchedulerTest, AnAdmissionLeavesAPageForEachRunningSequence) {
  Start(4, 4, 512);
  Add(60);
  Sequence* const second = Add(64 * 3);
  Step();
  EXPECT_EQ(second->phase, SequencePhase::kWaiting);  // 3 free, but one is the first's next
  EXPECT_EQ(scheduler_->pages().num_free(), 3);
}

TEST_F(SchedulerTest, TheOldestIsNeverPreempted) {
  Start(6, 4, 512);
  Sequence* const oldest = Add(64, 300);
  for (int i = 0; i < 3; ++i) Add(64, 200);
  int preempted = 0;
  for (int i = 0; i < 300; ++i) {
    preempted += Step().num_preempted;
    if (sequences_.count(0) == 0) break;
    ASSERT_EQ(oldest->output_token_ids.size(), static_cast<size_t>(i + 1));
  }
  EXPECT_GT(preempted, 0);
}

TEST_F(SchedulerTest, APreemptedSequenceKeepsItsTokensAndPrefillsThemAgain) {
  Start(5, 4, 512);
  Sequence* const old = Add(100);
  Sequence* const young = Add(100);
  StepPlan plan;
  do {
    plan = Step();
    ASSERT_FALSE(plan.rows.empty());
  } while (plan.num_preempted == 0);
  EXPECT_EQ(young->phase, SequencePhase::kWaiting);
  EXPECT_EQ(young->num_cached, 0);
  EXPECT_TRUE(young->pages.empty());
  const size_t num_output = young->output_token_ids.size();
  EXPECT_GT(num_output, 20u);
  ASSERT_EQ(plan.rows.size(), 1u);
  EXPECT_EQ(plan.rows[0].sequence, old);
  Finish(old);
  plan = Step();
  ASSERT_EQ(plan.rows.size(), 1u);
  EXPECT_EQ(plan.num_decode_rows, 0);
  EXPECT_EQ(plan.rows[0].begin, 0);
  EXPECT_EQ(plan.rows[0].num_tokens, 100 + static_cast<int32_t>(num_output));
  EXPECT_TRUE(plan.rows[0].samples);
  EXPECT_EQ(young->output_token_ids.size(), num_output + 1);
}

TEST_F(SchedulerTest, FinishFreesPagesInEveryPhase) {
  Start(10, 2, 64);
  Sequence* const decoding = Add(10);
  Sequence* const prefilling = Add(200);
  Sequence* const waiting = Add(10);
  Step();
  ASSERT_EQ(decoding->phase, SequencePhase::kDecode);
  ASSERT_EQ(prefilling->phase, SequencePhase::kPrefill);
  ASSERT_EQ(waiting->phase, SequencePhase::kWaiting);
  Finish(waiting);
  Finish(prefilling);
  Finish(decoding);
  EXPECT_EQ(scheduler_->pages().num_free(), 10);
  EXPECT_TRUE(Step().rows.empty());
}

TEST_F(SchedulerTest, ATokenThatCouldNotBeSampledIsNotAppended) {
  Start(10, 2, 64);
  Sequence* const sequence = Add(10);
  StepPlan plan;
  scheduler_->PlanStep(&plan);
  SampledToken none;
  none.token_id = kNoToken;
  scheduler_->Commit(plan, {none});
  EXPECT_TRUE(sequence->output_token_ids.empty());
  Finish(sequence);
  EXPECT_EQ(scheduler_->pages().num_free(), 10);
}

TEST_F(SchedulerTest, RefusesOptionsThatCannotWork) {
  SchedulerOptions options;
  EXPECT_EQ(Scheduler::CheckOptions(options).code(), absl::StatusCode::kInvalidArgument);
  options.num_pages = 1;
  EXPECT_TRUE(Scheduler::CheckOptions(options).ok());
  options.max_step_tokens = options.max_running - 1;
  EXPECT_EQ(Scheduler::CheckOptions(options).code(), absl::StatusCode::kInvalidArgument);
}

// Thousands of random steps with arrivals, cancellations and too few pages; every invariant after each.
class SchedulerInvariantTest : public SchedulerTest {
 protected:
  void CheckPlan(const StepPlan& plan, int32_t max_running, int32_t max_step_tokens) {
    int32_t num_tokens = 0;
    std::set<const Sequence*> seen;
    for (size_t r = 0; r < plan.rows.size(); ++r) {
      const PlanRow& row = plan.rows[r];
      num_tokens += row.num_tokens;
      ASSERT_TRUE(seen.insert(row.sequence).second) << "a sequence in two rows";
      ASSERT_EQ(row.begin, row.sequence->num_cached);
      ASSERT_GE(row.num_tokens, 1);
      ASSERT_LE(row.begin + row.num_tokens, row.sequence->num_tokens());
      ASSERT_EQ(row.samples, row.begin + row.num_tokens == row.sequence->num_tokens());
      ASSERT_GE(static_cast<int32_t>(row.sequence->pages.size()), PagesFor(row.begin + row.num_tokens));
      if (r < static_cast<size_t>(plan.num_decode_rows)) {
        ASSERT_EQ(row.num_tokens, 1);
      }
    }
    ASSERT_LE(num_tokens, max_step_tokens);
    ASSERT_LE(scheduler_->num_running(), max_running);
  }

  void CheckPages() {
    std::set<int32_t> owned;
    size_t num_owned = 0;
    for (const auto& [id, sequence] : sequences_) {
      owned.insert(sequence->pages.begin(), sequence->pages.end());
      num_owned += sequence->pages.size();
      if (sequence->phase == SequencePhase::kWaiting) {
        ASSERT_TRUE(sequence->pages.empty());
      }
      ASSERT_LE(static_cast<int32_t>(sequence->pages.size()), PagesFor(sequence->num_tokens()));
    }
    ASSERT_EQ(owned.size(), num_owned) << "a page owned twice";
    ASSERT_EQ(static_cast<int32_t>(num_owned) + scheduler_->pages().num_free(), scheduler_->pages().num_pages());
  }

  void RunRandomSteps(int seed, int* num_preempted) {
    std::mt19937 rng(seed);
    const int32_t num_pages = 6 + static_cast<int32_t>(rng() % 30);
    const int32_t max_running = 1 + static_cast<int32_t>(rng() % 12);
    const int32_t max_step_tokens = max_running + static_cast<int32_t>(rng() % 300);
    Start(num_pages, max_running, max_step_tokens);
    std::map<uint64_t, size_t> outputs;
    for (int step = 0; step < 3000; ++step) {
      if (rng() % 2 == 0 && sequences_.size() < 40) {
        const uint32_t longest = rng() % 4 == 0 ? num_pages * 32 : 100;
        Add(1 + static_cast<int32_t>(rng() % longest), 1 + static_cast<int32_t>(rng() % 400));
      }
      if (rng() % 40 == 0 && !sequences_.empty()) {
        Finish(std::next(sequences_.begin(), rng() % sequences_.size())->second.get());
      }
      StepPlan plan;
      scheduler_->PlanStep(&plan);
      CheckPlan(plan, max_running, max_step_tokens);
      CheckPages();
      if (HasFatalFailure()) return;
      *num_preempted += plan.num_preempted;
      ASSERT_EQ(plan.rows.empty(), sequences_.empty()) << "work waits, and nothing is planned";
      std::vector<SampledToken> tokens(
          std::count_if(plan.rows.begin(), plan.rows.end(), [](const PlanRow& row) { return row.samples; }));
      scheduler_->Commit(plan, tokens);
      std::vector<Sequence*> done;
      for (const PlanRow& row : plan.rows) {
        ASSERT_GE(row.sequence->output_token_ids.size(), outputs[row.sequence->id]);
        outputs[row.sequence->id] = row.sequence->output_token_ids.size();
        if (row.sequence->num_tokens() >= row.sequence->max_tokens) done.push_back(row.sequence);
      }
      for (Sequence* sequence : done) Finish(sequence);
    }
    for (int step = 0; step < 200000 && !sequences_.empty(); ++step) Step();
    EXPECT_TRUE(sequences_.empty());
    EXPECT_EQ(scheduler_->pages().num_free(), num_pages);
  }
};

TEST_F(SchedulerInvariantTest, PagesAreConservedAndEverySequenceEnds) {
  int num_preempted = 0;
  for (int seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    RunRandomSteps(seed, &num_preempted);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(num_preempted, 100) << "the test no longer reaches preemption";
}

}  // namespace
}  // namespace spotlight::engine
