#include "engine/waiting_line.h"

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {

class WaitingLineTest : public testing::Test {
 protected:
  Sequence* Push(const std::string& caller, int32_t prompt_tokens = 10, int32_t priority = 0) {
    sequences_.emplace_back();
    Sequence* const sequence = &sequences_.back();
    sequence->id = sequences_.size();
    sequence->caller = caller;
    sequence->priority = priority;
    sequence->prompt_token_ids = std::vector<int32_t>(prompt_tokens, 1);
    line_.Push(sequence);
    return sequence;
  }
  std::vector<Sequence*> PushSamples(const std::string& caller, int num_samples, int32_t priority = 0) {
    std::vector<Sequence*> samples;
    for (int i = 0; i < num_samples; ++i) {
      samples.push_back(Push(caller, 10, priority));
      samples.back()->first_sample_id = samples[0]->id;
      samples.back()->num_samples = num_samples;
    }
    return samples;
  }
  // Takes the next one; its answer is generated and it ends.
  Sequence* Serve(int32_t answer_tokens = 0) {
    Sequence* const next = line_.Front();
    if (next == nullptr) return nullptr;
    line_.PopFront();
    for (int32_t i = 0; i < answer_tokens; ++i) WaitingLine::OnToken(next);
    line_.Forget(next);
    return next;
  }
  // The callers of the next `count`, a letter each.
  std::string Order(int count) {
    std::string callers;
    for (int i = 0; i < count; ++i) callers += Serve()->caller;
    return callers;
  }

  std::deque<Sequence> sequences_;
  WaitingLine line_;
};

TEST_F(WaitingLineTest, ACallersRequestsStartInTheOrderTheyCame) {
  const std::vector<Sequence*> sent = {Push("a", 500), Push("a", 3), Push("a", 70)};
  for (Sequence* const sequence : sent) EXPECT_EQ(Serve(), sequence);
  EXPECT_EQ(line_.Front(), nullptr);
  EXPECT_TRUE(line_.empty());
}

TEST_F(WaitingLineTest, CallersTakeTurnsHoweverManyRequestsOneSends) {
  for (int i = 0; i < 20; ++i) Push("a");
  for (int i = 0; i < 3; ++i) Push("b");
  EXPECT_EQ(Order(8), "abababaa");
}

TEST_F(WaitingLineTest, CallersShareTokensNotRequests) {
  for (int i = 0; i < 20; ++i) Push("a", 100);
  for (int i = 0; i < 80; ++i) Push("b", 25);
  const std::string order = Order(50);
  EXPECT_EQ(std::count(order.begin(), order.end(), 'a'), 10) << order;
}

TEST_F(WaitingLineTest, GeneratedTokensAreChargedTwice) {
  for (int i = 0; i < 4; ++i) Push("a", 10);
  for (int i = 0; i < 8; ++i) Push("b", 10);
  std::map<std::string, int> served;
  for (int i = 0; i < 8; ++i) {
    const std::string caller = line_.Front()->caller;
    Serve(caller == "a" ? 10 : 0);  // 30 against 10
    ++served[caller];
  }
  EXPECT_EQ(served["a"], 2);
  EXPECT_EQ(served["b"], 6);
}

TEST_F(WaitingLineTest, ToHaveBeenAwayEarnsNothing) {
  for (int i = 0; i < 50; ++i) Push("a");
  Push("b");
  for (int i = 0; i < 30; ++i) Serve();
  for (int i = 0; i < 20; ++i) Push("b");  // away for 28 starts
  EXPECT_EQ(std::count_if(sequences_.begin(), sequences_.end(), [](const Sequence& s) { return s.caller == "b"; }), 21);
  const std::string order = Order(10);
  EXPECT_EQ(std::count(order.begin(), order.end(), 'b'), 5) << order;
}

TEST_F(WaitingLineTest, WhatACallerHadBeyondItsShareIsNotForgottenWhenItLeaves) {
  Push("a", 1000);
  Push("b", 10);
  Push("b", 10);
  ASSERT_EQ(Serve()->caller, "a");
  ASSERT_EQ(Serve()->caller, "b");
  Push("a", 10);
  Push("b", 10);
  EXPECT_EQ(Order(3), "bba");
}

TEST_F(WaitingLineTest, WhatThePagesHoldAlreadyIsNotCharged) {
  for (int i = 0; i < 4; ++i) Push("a", 100);
  for (int i = 0; i < 4; ++i) Push("b", 100);
  std::string order;
  for (int i = 0; i < 6; ++i) {
    Sequence* const next = line_.Front();
    if (next->caller == "a") next->num_cached = 50;
    order += Serve()->caller;
  }
  EXPECT_EQ(order, "abaaba");
}

TEST_F(WaitingLineTest, HigherPrioritiesStartFirst) {
  Push("a", 10, 0);
  Push("a", 10, -10);
  Push("b", 10, 10);
  Push("a", 10, 3);
  EXPECT_EQ(Serve()->priority, 10);
  EXPECT_EQ(Serve()->priority, 3);
  EXPECT_EQ(Serve()->priority, 0);
  EXPECT_EQ(Serve()->priority, -10);
}

TEST_F(WaitingLineTest, AFloodOfHigherPrioritiesStarvesNone) {
  std::vector<Sequence*> low;
  for (int32_t priority = -10; priority < 0; ++priority) low.push_back(Push("a", 10, priority));
  for (int start = 0; start < 9 * 10; ++start) {
    Push("a", 10, 1 + start % 100);
    Push("b", 10, 100);
    Sequence* const started = Serve();
    if (started == low[start / 9]) low[start / 9] = nullptr;  // in the order they came, a start in nine
  }
  for (const Sequence* const left : low) EXPECT_EQ(left, nullptr);
}

TEST_F(WaitingLineTest, ToSendInManyPrioritiesEarnsNothing) {
  for (int i = 0; i < 100; ++i) Push("a", 10, 0);
  for (int i = 0; i < 100; ++i) Push("b", 10, 0);
  for (int32_t priority = -100; priority < 0; ++priority) Push("a", 10, priority);
  const std::string order = Order(90);
  EXPECT_EQ(std::count(order.begin(), order.end(), 'b'), 40) << order;
}

TEST_F(WaitingLineTest, BelowTheHighestPriorityCallersTakeTurns) {
  for (int i = 0; i < 300; ++i) Push("h", 10, 5);
  for (int32_t priority = -100; priority < 0; ++priority) Push("a", 10, priority);
  for (int i = 0; i < 20; ++i) Push("b", 10, -100);
  const std::string order = Order(180);
  EXPECT_EQ(std::count(order.begin(), order.end(), 'a'), 10) << order;
  EXPECT_EQ(std::count(order.begin(), order.end(), 'b'), 10) << order;
}

TEST_F(WaitingLineTest, TheLowerOfTwoPrioritiesGetsOneStartInNine) {
  for (int i = 0; i < 200; ++i) Push("a", 10, 1);
  for (int i = 0; i < 200; ++i) Push("b", 10, 0);
  const std::string order = Order(90);
  EXPECT_EQ(std::count(order.begin(), order.end(), 'b'), 10) << order;
}

TEST_F(WaitingLineTest, WhoIsNextStaysSoUntilItStartsUnlessAHigherPriorityComes) {
  Sequence* const large = Push("a", 1000);
  ASSERT_EQ(line_.Front(), large);
  Push("b", 1);
  EXPECT_EQ(line_.Front(), large);
  Sequence* const urgent = Push("b", 1, 5);
  EXPECT_EQ(line_.Front(), urgent);
  EXPECT_EQ(Serve(), urgent);
  line_.Forget(large);
  EXPECT_EQ(line_.Front()->caller, "b");
  EXPECT_EQ(line_.size(), 1u);
}

TEST_F(WaitingLineTest, TheOtherSamplesOfARequestFollowItsFirstBeforeCallersInTurnAndHigherPriorities) {
  const std::vector<Sequence*> samples = PushSamples("a", 3);
  Push("b");
  EXPECT_EQ(Serve(), samples[0]);
  Push("c", 10, 5);
  EXPECT_EQ(Serve(), samples[1]);
  EXPECT_EQ(Serve(), samples[2]);
  EXPECT_EQ(Order(2), "cb");
}

TEST_F(WaitingLineTest, EightSamplesFollowAndNoMore) {
  PushSamples("a", 64);
  EXPECT_EQ(Serve()->caller, "a");
  Push("b", 10, 5);
  EXPECT_EQ(Order(10), "aaaaaaaaba");
}

TEST_F(WaitingLineTest, SamplesThatEndBeforeTheyStartHoldNobodyUp) {
  const std::vector<Sequence*> samples = PushSamples("a", 3);
  Push("b");
  EXPECT_EQ(Serve(), samples[0]);
  line_.Forget(samples[1]);
  line_.Forget(samples[2]);
  EXPECT_EQ(Order(1), "b");
  EXPECT_TRUE(line_.empty());
}

TEST_F(WaitingLineTest, ManySamplesBelowTheHighestPriorityGetNoMoreStartsThanOne) {
  for (int i = 0; i < 60; ++i) PushSamples("a", 3);
  for (int i = 0; i < 400; ++i) Push("b", 10, 1);
  const std::string order = Order(270);
  EXPECT_EQ(std::count(order.begin(), order.end(), 'a'), 30) << order;
}

TEST_F(WaitingLineTest, APreemptedSequenceGoesFirstAndIsNotChargedAgain) {
  Sequence* const old = Push("a", 100);
  line_.PopFront();
  Push("b", 10, 10);
  line_.PushPreempted(old);
  EXPECT_EQ(line_.size(), 2u);
  EXPECT_EQ(line_.Front(), old);
  line_.PopFront();
  Push("a", 10);
  EXPECT_EQ(line_.Front()->caller, "b");
  line_.Forget(old);
  EXPECT_EQ(Order(2), "ba");
}

// The bound of the header, over random sizes, callers and running sets.
TEST_F(WaitingLineTest, TwoCallersThatBothWaitNeverDriftFurtherApartThanTheBound) {
  constexpr int kMaxPrompt = 200, kMaxAnswer = 60, kMaxRunning = 8;
  constexpr int64_t kBound = 2 * 2 * std::max(kMaxPrompt, 2 * kMaxRunning * kMaxAnswer);
  std::mt19937 random(7);
  const auto up_to = [&](int most) { return 1 + static_cast<int>(random() % most); };
  // Caller a sends long prompts and short answers, b the reverse, c a mixture; all keep 5 waiting.
  std::map<std::string, int64_t> service;
  std::map<std::string, int> waiting;
  struct Running {
    Sequence* sequence;
    int left;
  };
  std::vector<Running> running;
  std::map<std::string, std::map<std::string, int64_t>> least;
  for (int step = 0; step < 20000; ++step) {
    for (const char* caller : {"a", "b", "c"}) {
      for (; waiting[caller] < 5; ++waiting[caller]) Push(caller, *caller == 'b' ? up_to(10) : up_to(kMaxPrompt));
    }
    while (running.size() < kMaxRunning) {
      Sequence* const next = line_.Front();
      line_.PopFront();
      --waiting[next->caller];
      service[next->caller] += next->num_tokens();
      running.push_back({next, next->caller == "a" ? up_to(5) : up_to(kMaxAnswer)});
    }
    for (size_t i = 0; i < running.size();) {
      WaitingLine::OnToken(running[i].sequence);
      service[running[i].sequence->caller] += 2;
      if (--running[i].left > 0) {
        ++i;
        continue;
      }
      line_.Forget(running[i].sequence);
      running[i] = running.back();
      running.pop_back();
    }
    // Over every interval: the difference's range is the largest over any two moments.
    for (const char* other : {"b", "c"}) {
      const int64_t ahead = service["a"] - service[other];
      auto& range = least[other];
      range["low"] = std::min(range["low"], ahead);
      range["high"] = std::max(range["high"], ahead);
      ASSERT_LE(range["high"] - range["low"], kBound) << other << " at step " << step;
    }
  }
  EXPECT_GT(service["a"], 50 * kBound);
}

TEST_F(WaitingLineTest, CallersThatAreGoneDoNotPileUp) {
  Push("stays", 10);
  for (int i = 0; i < 5000; ++i) {
    Push("caller " + std::to_string(i), 50);
    Serve();
  }
  while (Serve() != nullptr) {
  }
  EXPECT_TRUE(line_.empty());
}

}  // namespace
}  // namespace spotlight::engine
