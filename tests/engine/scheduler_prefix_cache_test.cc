// What sequences share through the prefix cache, and what they may not.
#include <algorithm>
#include <vector>

#include "engine/scheduler.h"
#include "gtest/gtest.h"
#include "kernels/layout.h"
#include "tests/engine/scheduler_fixture.h"

namespace spotlight::engine {
namespace {

TEST_F(SchedulerPrefixCacheTest, APromptStartsAfterThePagesThatAnotherComputed) {
  Start(20, 4, 512);
  Sequence* const first = AddCached(200);
  StepPlan plan = Step();
  EXPECT_EQ(plan.num_prefix_query_tokens, 200);
  EXPECT_EQ(plan.num_prefix_hit_tokens, 0);
  Sequence* const second = AddCached(300);  // the same 200 tokens and more
  plan = Step();
  ASSERT_EQ(plan.rows.size(), 2u);
  EXPECT_EQ(plan.rows[1].begin, 192);
  EXPECT_EQ(plan.rows[1].num_tokens, 108);
  EXPECT_EQ(plan.num_prefix_hit_tokens, 192);
  EXPECT_EQ(second->num_prompt_hit, 192);
  for (int page = 0; page < 3; ++page) EXPECT_EQ(second->pages[page], first->pages[page]);
  EXPECT_NE(second->pages[3], first->pages[3]);
  EXPECT_EQ(scheduler_->pages().num_free(), 20 - 4 - 2);
  const std::vector<int32_t> shared(first->pages.begin(), first->pages.begin() + 3);
  Finish(first);
  EXPECT_EQ(scheduler_->pages().num_holders(shared[0]), 1);
  Finish(second);
  EXPECT_EQ(scheduler_->pages().num_free(), 20);
}

TEST_F(SchedulerPrefixCacheTest, ThePageOfTheLastTokenIsComputedAlthoughItIsCached) {
  Start(20, 4, 512);
  AddCached(129, 1);
  Step();
  for (const auto& [prompt_tokens, begin] : std::map<int32_t, int32_t>{{128, 64}, {129, 128}, {64, 0}, {65, 64}}) {
    AddCached(prompt_tokens, 1);
    EXPECT_EQ(Step().rows.at(0).begin, begin) << prompt_tokens;
  }
}

TEST_F(SchedulerPrefixCacheTest, PagesAreFoundAfterTheirSequenceAndUntilTheyAreNeeded) {
  Start(8, 4, 512);
  AddCached(256, 1);
  Step();
  EXPECT_EQ(scheduler_->pages().num_free(), 8);
  EXPECT_EQ(scheduler_->pages().num_kept(), 4);
  AddCached(256, 1);
  EXPECT_EQ(Step().rows.at(0).begin, 192);
  // Six pages: four free ones, and the last two of those kept.
  AddCached(383, 1, "", 5000);
  EXPECT_EQ(Step().num_prefix_hit_tokens, 0);
  AddCached(256, 1);
  EXPECT_EQ(Step().rows.at(0).begin, 128);
}

TEST_F(SchedulerPrefixCacheTest, SaltsDoNotMeet) {
  Start(20, 4, 512);
  AddCached(200, 1, "a");
  Step();
  AddCached(200, 1, "b");
  EXPECT_EQ(Step().rows.at(0).begin, 0);
  AddCached(200, 1, "a");
  EXPECT_EQ(Step().rows.at(0).begin, 192);
}

TEST_F(SchedulerPrefixCacheTest, ASequenceThatBypassesTheCacheNeitherFindsNorLeavesPages) {
  Start(20, 4, 512);
  Add(200, 1);  // no hashes
  Step();
  EXPECT_EQ(scheduler_->pages().num_kept(), 0);
  AddCached(200, 1);
  Step();
  Sequence* const bypassing = Add(200, 1);
  bypassing->prompt_token_ids = Counted(200, 0);
  const StepPlan plan = Step();
  EXPECT_EQ(plan.rows.at(0).begin, 0);
  EXPECT_EQ(plan.num_prefix_query_tokens, 0);
}

TEST_F(SchedulerPrefixCacheTest, DenseAnswersAreCachedAndTokensFromTheFirstSparseOneOnAreNot) {
  Start(30, 4, 512);
  const auto run = [&](int32_t first_sparse_step) {
    Sequence* const sequence = AddCached(100, 200);
    std::vector<int32_t> ids;
    for (int step = 0; sequences_.count(sequence->id) == 1; ++step) {
      StepPlan plan;
      scheduler_->PlanStep(&plan);
      if (step >= first_sparse_step) plan.rows.at(0).retrieval.num_select = 64;
      SampledToken token;
      token.token_id = 40 + step + first_sparse_step;  // each run another answer
      scheduler_->Advance(plan);
      scheduler_->Commit(plan, {token});
      ids = sequence->prompt_token_ids.ids();
      ids.insert(ids.end(), sequence->output_token_ids.begin(), sequence->output_token_ids.end());
      if (sequence->num_tokens() == sequence->max_tokens) Finish(sequence);
    }
    // The conversation goes on.
    Sequence* const next = AddCached(310, 1);
    ids.resize(310, 1);
    next->prompt_token_ids = ids;
    next->page_hashes = PageHashes("", ids);
    return Step().rows.at(0).begin;
  };
  EXPECT_EQ(run(1000000), 256);  // 299 tokens were cached
  // Step 30 computes token 129, in the third page.
  EXPECT_EQ(run(30), 128);
  EXPECT_EQ(run(1), 64);
}

TEST_F(SchedulerPrefixCacheTest, APreemptedSequenceFindsItsPagesAgain) {
  Start(9, 4, 512);
  Sequence* const old = AddCached(100, 1000000, "old");
  Sequence* const young = AddCached(250, 1000000, "young");
  while (Step().num_preempted == 0) {
  }
  EXPECT_EQ(young->phase, SequencePhase::kWaiting);
  const int32_t num_tokens = young->num_tokens();
  Finish(old);
  const StepPlan plan = Step();
  EXPECT_EQ(plan.rows.at(0).sequence, young);
  EXPECT_GE(plan.rows[0].begin, 192);
  EXPECT_EQ(plan.rows[0].begin + plan.rows[0].num_tokens, num_tokens);
  EXPECT_EQ(young->num_prompt_hit, 0) << "what preemption spared is no hit of the request";
}

TEST_F(SchedulerPrefixCacheTest, PagesOfUnusableLogitsAreForgotten) {
  Start(20, 4, 512);
  Sequence* const bad = AddCached(200);
  StepPlan plan;
  scheduler_->PlanStep(&plan);
  SampledToken none;
  none.token_id = kNoToken;
  scheduler_->Advance(plan);
  scheduler_->Commit(plan, {none});
  Finish(bad);
  EXPECT_EQ(scheduler_->pages().num_kept(), 0);
  AddCached(200, 1);
  EXPECT_EQ(Step().rows.at(0).begin, 0);
}

TEST_F(SchedulerPrefixCacheTest, PagesOfUnusableLogitsAreForgottenThoughTheirSequenceHasLostThem) {
  for (const bool preempted : {true, false}) {
    Start(9, 4, 512);
    Sequence* const old = AddCached(100, 1000000, "old");
    Sequence* const young = AddCached(250, 1000000, "young");
    StepPlan plan, next;
    while (old->num_tokens() <= 192) {  // the next plan takes young's pages, beside the step under way
      scheduler_->PlanStep(&plan);
      scheduler_->Advance(plan);
      std::vector<SampledToken> tokens(
          std::count_if(plan.rows.begin(), plan.rows.end(), [](const PlanRow& row) { return row.samples; }));
      if (old->num_tokens() > 192) {
        if (preempted) {
          scheduler_->PlanStep(&next);
        } else {
          scheduler_->Finish(young);
        }
        ASSERT_TRUE(young->pages.empty());
        tokens.at(plan.rows[0].sequence == young ? 0 : 1).token_id = kNoToken;
      }
      scheduler_->Commit(plan, tokens);
    }
    AddCached(250, 1, "young");
    if (preempted) scheduler_->Finish(young);
    scheduler_->Finish(old);
    EXPECT_EQ(Step().num_prefix_hit_tokens, 0);
  }
}

TEST_F(SchedulerPrefixCacheTest, SamplesOfAPromptComputeItOnceWithTheCacheOrWithoutIt) {
  for (const bool cached : {false, true}) {
    Start(40, 8, 512);
    std::vector<Sequence*> samples;
    const uint64_t first = next_id_;
    for (int i = 0; i < 3; ++i) {
      Sequence* const sample = Add(700);
      sample->first_sample_id = first;
      sample->num_samples = 3;
      if (cached) sample->page_hashes = PageHashes("", sample->prompt_token_ids.ids());
      samples.push_back(sample);
    }
    EXPECT_EQ(Step().rows.size(), 1u) << "a sample began before it could share";
    EXPECT_EQ(Step().rows.size(), 1u);
    const StepPlan plan = Step();
    ASSERT_EQ(plan.rows.size(), 3u);
    EXPECT_EQ(plan.num_decode_rows, 1);
    for (int i = 1; i < 3; ++i) {
      EXPECT_EQ(plan.rows[i].begin, 640);
      EXPECT_EQ(plan.rows[i].num_tokens, 60);
      for (int page = 0; page < 10; ++page) EXPECT_EQ(samples[i]->pages[page], samples[0]->pages[page]);
      EXPECT_NE(samples[i]->pages[10], samples[0]->pages[10]);
    }
    EXPECT_EQ(scheduler_->pages().num_free(), 40 - 10 - 3);
    for (Sequence* const sample : samples) Finish(sample);
    EXPECT_EQ(scheduler_->pages().num_free(), 40);
    EXPECT_EQ(scheduler_->pages().num_kept(), cached ? 10 : 0);
  }
}

TEST_F(SchedulerPrefixCacheTest, APromptWhoseLogProbabilitiesAreWantedIsComputedWhole) {
  Start(40, 8, 512);
  AddCached(300, 1);
  Step();
  Sequence* const scored = AddCached(300);
  scored->num_prompt_logprobs = 0;
  StepPlan plan = Step();
  EXPECT_EQ(plan.rows.at(0).begin, 0);
  scored->num_scored = 299;
  EXPECT_EQ(scored->num_unscored(), 0);
}

}  // namespace
}  // namespace spotlight::engine
