// A scheduler with sequences to plan, for its tests.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <vector>

#include "engine/scheduler.h"
#include "gtest/gtest.h"
#include "kernels/layout.h"

namespace spotlight::engine {

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
    sequence->prompt_token_ids = std::vector<int32_t>(prompt_tokens, 7);
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
    scheduler_->Advance(plan);
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

// Sequences that may use the prefix cache.
class SchedulerPrefixCacheTest : public SchedulerTest {
 protected:
  // Tokens first, first + 1, ...
  Sequence* AddCached(int32_t prompt_tokens, int32_t max_output = 1000000, const char* salt = "", int32_t first = 0) {
    Sequence* const sequence = Add(prompt_tokens, max_output);
    sequence->prompt_token_ids = Counted(prompt_tokens, first);
    sequence->page_hashes = PageHashes(salt, sequence->prompt_token_ids.ids());
    return sequence;
  }
  static std::vector<int32_t> Counted(int32_t size, int32_t first) {
    std::vector<int32_t> ids(size);
    std::iota(ids.begin(), ids.end(), first);
    return ids;
  }
};

}  // namespace spotlight::engine
