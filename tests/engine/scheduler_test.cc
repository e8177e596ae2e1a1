#include "engine/scheduler.h"

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/layout.h"
#include "tests/engine/scheduler_fixture.h"

namespace spotlight::engine {
namespace {

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

// Seconds: 10 ms, and 10 ms for every 100 tokens of prompts.
double SecondsOf(const StepPlan& plan) {
  double seconds = 0.01;
  for (size_t row = plan.num_decode_rows; row < plan.rows.size(); ++row) seconds += 1e-4 * plan.rows[row].num_tokens;
  return seconds;
}

TEST_F(SchedulerTest, APromptAloneTakesTheWholeBudget) {
  Start(200, 4, 1000);
  Add(3000);
  for (int i = 0; i < 3; ++i) {
    const StepPlan plan = Step();
    EXPECT_EQ(plan.rows[0].num_tokens, 1000);
    scheduler_->Learn(plan, SecondsOf(plan));
  }
}

TEST_F(SchedulerTest, BesideStreamsAPromptTakesAsLongAsThreeStepsOfTheirs) {
  Start(400, 4, 1000);
  Add(900);
  for (int i = 0; i < 20; ++i) {
    const StepPlan plan = Step();
    scheduler_->Learn(plan, SecondsOf(plan));
  }
  Add(12000);
  for (int i = 0; i < 40; ++i) {
    const StepPlan plan = Step();
    ASSERT_EQ(plan.num_decode_rows, 1);
    ASSERT_EQ(plan.rows.size(), 2u);
    EXPECT_LE(SecondsOf(plan), 0.03);
    EXPECT_EQ(plan.rows[1].num_tokens % 8, 0) << "one of many lengths";
    if (i > 5) {
      EXPECT_GE(SecondsOf(plan), 0.02);
    }
    scheduler_->Learn(plan, SecondsOf(plan));
  }
}

TEST_F(SchedulerTest, TheGapMayBeGivenAndAPromptAlwaysGoesOn) {
  SchedulerOptions options;
  options.num_pages = 400;
  options.max_step_tokens = 1000;
  for (const double gap : {0.06, 0.005}) {
    options.max_token_gap_seconds = gap;
    scheduler_ = std::make_unique<Scheduler>(options);
    Sequence* const stream = Add(900);
    for (int i = 0; i < 20; ++i) {
      const StepPlan plan = Step();
      scheduler_->Learn(plan, SecondsOf(plan));
    }
    Sequence* const prompt = Add(12000);
    StepPlan plan;
    for (int i = 0; i < 20; ++i) {
      plan = Step();
      scheduler_->Learn(plan, SecondsOf(plan));
    }
    ASSERT_EQ(plan.rows.size(), 2u);
    if (gap == 0.06) {
      EXPECT_GT(SecondsOf(plan), 0.04);
      EXPECT_LE(SecondsOf(plan), 0.06);
    } else {
      EXPECT_EQ(plan.rows[1].num_tokens, 16);
    }
    Finish(stream);
    Finish(prompt);
  }
}

TEST_F(SchedulerTest, SeveralPromptsShareTheTimeOfAStep) {
  Start(400, 8, 1000);
  Add(900);
  for (int i = 0; i < 20; ++i) {
    const StepPlan plan = Step();
    scheduler_->Learn(plan, SecondsOf(plan));
  }
  for (int i = 0; i < 5; ++i) Add(70, 1);
  StepPlan plan = Step();
  EXPECT_EQ(plan.rows.size(), 3u);  // 140 tokens, 24 ms; a third would take 31
  scheduler_->Learn(plan, SecondsOf(plan));
  plan = Step();
  EXPECT_EQ(plan.rows.size(), 3u);
}

TEST_F(SchedulerTest, ALongChunkEndsWhereAttentionsBlocksDo) {
  Start(400, 4, 5000);
  Add(12345);
  std::vector<int32_t> lengths;
  for (int i = 0; i < 3; ++i) lengths.push_back(Step().rows[0].num_tokens);
  EXPECT_EQ(lengths, (std::vector<int32_t>{4096, 4096, 12345 - 8192}));
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

TEST_F(SchedulerTest, WaitsAStepRatherThanPreemptWhileAnEndGivesPages) {
  Start(3, 4, 512);
  Sequence* const ends = Add(62, 4);
  Sequence* const grows = Add(61);
  for (int i = 0; i < 3; ++i) Step();
  std::vector<StepPlan> plans(2);
  scheduler_->PlanStep(&plans[0]);
  ASSERT_EQ(plans[0].num_decode_rows, 2);
  scheduler_->Advance(plans[0]);
  // One has its last token under way; the other wants a second page, and there is none.
  scheduler_->PlanStep(&plans[1]);
  EXPECT_EQ(plans[1].num_preempted, 0);
  EXPECT_TRUE(plans[1].rows.empty());
  scheduler_->Commit(plans[0], {SampledToken(), SampledToken()});
  Finish(ends);
  const StepPlan plan = Step();
  EXPECT_EQ(plan.num_decode_rows, 1);
  EXPECT_EQ(grows->pages.size(), 2u);
}

TEST_F(SchedulerTest, PreemptsOfTheCallerThatHoldsMostPages) {
  Start(9, 4, 512);
  Sequence* const first = Add(60);
  Sequence* const large = Add(60);
  Sequence* const larger = Add(150);
  Sequence* const small = Add(20);
  first->caller = "other";
  large->caller = larger->caller = "hoards";
  small->caller = "young";
  StepPlan plan;
  for (int i = 0; i < 200 && plan.num_preempted == 0; ++i) plan = Step();
  ASSERT_EQ(plan.num_preempted, 1);
  EXPECT_EQ(larger->phase, SequencePhase::kWaiting) << "the younger of the caller with most pages";
  EXPECT_EQ(small->phase, SequencePhase::kDecode) << "though another started after it";
  EXPECT_EQ(plan.num_decode_rows, 3) << "a row that was planned before is gone";
  for (const PlanRow& row : plan.rows) EXPECT_NE(row.sequence, larger);
  // Once it starts again it is still older than what started after it at first.
  Finish(first);
  Finish(large);
  Step();
  EXPECT_EQ(larger->phase, SequencePhase::kDecode);
  EXPECT_LT(larger->start_number, small->start_number);
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
  scheduler_->Advance(plan);
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
  options.max_step_tokens = options.max_running;
  options.max_token_gap_seconds = -1;
  EXPECT_EQ(Scheduler::CheckOptions(options).message(), "max_token_gap_seconds: must be in [0, 1e6), got -1");
}

TEST_F(SchedulerTest, RefusesShortChunksThatNoKernelTakes) {
  SchedulerOptions options;
  options.num_pages = 1;
  for (const std::vector<int32_t>& lengths : std::vector<std::vector<int32_t>>{{128}, {1, 128}, {18, 36, 54, 128}}) {
    options.short_chunks = lengths;
    EXPECT_TRUE(Scheduler::CheckOptions(options).ok());
  }
  for (const std::vector<int32_t>& lengths : std::vector<std::vector<int32_t>>{
           {}, {0, 128}, {-16, 128}, {32, 16, 128}, {16, 16, 128}, {16, 64}, {16, 256}, {16, 128, 128}}) {
    options.short_chunks = lengths;
    EXPECT_EQ(Scheduler::CheckOptions(options).code(), absl::StatusCode::kInvalidArgument) << lengths.size();
  }
  options.short_chunks = {32, 16, 128};
  EXPECT_EQ(Scheduler::CheckOptions(options).message(),
            "short_chunks: must ascend from at least 1 to 128, got [32, 16, 128]");
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
    std::map<int32_t, int32_t> holders;
    for (const auto& [id, sequence] : sequences_) {
      for (const int32_t page : sequence->pages) ++holders[page];
      if (sequence->phase == SequencePhase::kWaiting) {
        ASSERT_TRUE(sequence->pages.empty());
      }
      ASSERT_LE(static_cast<int32_t>(sequence->pages.size()), PagesFor(sequence->num_tokens()));
    }
    const PagePool& pages = scheduler_->pages();
    for (const auto& [page, count] : holders) ASSERT_EQ(pages.num_holders(page), count);
    ASSERT_EQ(static_cast<int32_t>(holders.size()) + pages.num_free(), pages.num_pages()) << "a page is lost";
  }

  // What a model would leave in the pages: in each slot a digest of all tokens up to it and of how they were computed.
  void WritePages(const StepPlan& plan) {
    for (const PlanRow& row : plan.rows) {
      const Sequence& sequence = *row.sequence;
      std::vector<uint64_t>& own = digests_[sequence.id];
      if (row.begin != static_cast<int32_t>(own.size())) {  // starts, perhaps again, after pages of the prefix cache
        own.clear();
        while (static_cast<int32_t>(own.size()) < row.begin) own.push_back(Digest(own, sequence, false));
      }
      for (int32_t position = row.begin; position < row.begin + row.num_tokens; ++position) {
        if (position > 0) {
          ASSERT_EQ(cache_[Slot(sequence, position - 1)], own.back())
              << "another's content, or content computed otherwise, at " << position - 1;
        }
        own.push_back(Digest(own, sequence, row.retrieval.num_select > 0));
        cache_[Slot(sequence, position)] = own.back();
      }
    }
  }
  static int64_t Slot(const Sequence& sequence, int32_t position) {
    return int64_t{sequence.pages[position / kernels::kPageTokens]} * kernels::kPageTokens +
           position % kernels::kPageTokens;
  }
  // Of the next token after those of `before`.
  static uint64_t Digest(const std::vector<uint64_t>& before, const Sequence& sequence, bool sparse) {
    const auto token = static_cast<uint64_t>(sequence.token_id(static_cast<int32_t>(before.size())));
    const uint64_t last = before.empty() ? 0 : before.back();
    return ((last << 1 | last >> 63) ^ (2 * token + sparse + 1)) * 0x9E3779B97F4A7C15;
  }

  // Prompts of a few beginnings under two salts, some of several samples, some that bypass the cache.
  void AddRelated(std::mt19937* rng, int32_t max_prompt, int32_t max_output) {
    const uint32_t beginning = (*rng)() % 4;
    const auto num_tokens = static_cast<int32_t>(1 + (*rng)() % max_prompt);
    const auto common = static_cast<int32_t>((*rng)() % 400);
    const int32_t num_samples = (*rng)() % 8 == 0 ? 3 : 1;
    const uint64_t first = next_id_;
    const std::string caller(1, static_cast<char>('a' + (*rng)() % 3));
    const bool cached = (*rng)() % 6 != 0;
    std::vector<int32_t> prompt;
    for (int32_t i = 0; i < num_tokens; ++i) {
      prompt.push_back(static_cast<int32_t>(i < common ? beginning * 1000 + i : (*rng)() % 50));
    }
    for (int32_t sample = 0; sample < num_samples; ++sample) {
      Sequence* const sequence = Add(num_tokens, max_output);
      sequence->prompt_token_ids = prompt;
      sequence->caller = caller;
      sequence->first_sample_id = first;
      sequence->num_samples = num_samples;
      if (cached) sequence->page_hashes = PageHashes(beginning % 2 == 0 ? "a" : "b", prompt);
      sparse_sequences_[sequence->id] = (*rng)() % 3 == 0;
    }
  }

  std::vector<uint64_t> cache_;
  std::map<uint64_t, std::vector<uint64_t>> digests_;  // by sequence, what its pages should hold
  std::map<uint64_t, bool> sparse_sequences_;
  int64_t num_hit_tokens_ = 0;

  void RunRandomSteps(int seed, int* num_preempted) {
    std::mt19937 rng(seed);
    const int32_t num_pages = 6 + static_cast<int32_t>(rng() % 30);
    const int32_t max_running = 1 + static_cast<int32_t>(rng() % 12);
    const int32_t max_step_tokens = max_running + static_cast<int32_t>(rng() % 300);
    Start(num_pages, max_running, max_step_tokens);
    cache_.assign(int64_t{num_pages} * kernels::kPageTokens, 0);
    digests_.clear();
    std::map<uint64_t, size_t> outputs;
    for (int step = 0; step < 3000; ++step) {
      if (rng() % 2 == 0 && sequences_.size() < 40) {
        const int32_t longest = rng() % 3 == 0 ? num_pages * 32 : 100;
        AddRelated(&rng, longest, 1 + static_cast<int32_t>(rng() % 400));
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
      num_hit_tokens_ += plan.num_prefix_hit_tokens;
      ASSERT_EQ(plan.rows.empty(), sequences_.empty()) << "work waits, and nothing is planned";
      for (int32_t r = 0; r < plan.num_decode_rows; ++r) {
        plan.rows[r].retrieval.num_select = sparse_sequences_[plan.rows[r].sequence->id] ? 64 : 0;
      }
      WritePages(plan);
      if (HasFatalFailure()) return;
      std::vector<SampledToken> tokens(
          std::count_if(plan.rows.begin(), plan.rows.end(), [](const PlanRow& row) { return row.samples; }));
      for (SampledToken& token : tokens) token.token_id = static_cast<int32_t>(rng() % 3);
      scheduler_->Advance(plan);
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
  EXPECT_GT(num_hit_tokens_, 10000) << "the test no longer reaches the prefix cache";
}

}  // namespace
}  // namespace spotlight::engine
