#include "engine/admission/deadline.h"

#include "engine/admission/retry_delay.h"
#include "engine/admission/waiting_shares.h"
#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {

using absl::StatusCode;

// 10 ms a step, 50 ms a step full of prompt tokens, all 4 places taken, 20 requests end a second.
Rates BusyRates() {
  Rates rates;
  rates.step_seconds = 0.010;
  rates.fastest_step_seconds = 0.004;
  rates.chunk_seconds = 0.050;
  rates.ends_per_second = 20;
  rates.max_step_tokens = 100;
  rates.max_running = 4;
  rates.num_running = 4;
  return rates;
}

Work WorkOfTokens(int64_t prompt, int32_t answer) {
  Work work;
  work.prompt_tokens = prompt;
  work.min_answer_tokens = work.max_answer_tokens = answer;
  return work;
}

TEST(DeadlineTest, TheEstimateIsTheHeadersFormula) {
  const Rates rates = BusyRates();
  // 2 full chunks, a rest of 50 tokens at 10 + 40 / 2 ms, 20 more tokens.
  EXPECT_NEAR(OwnSeconds(rates, WorkOfTokens(250, 21)), (0.100 + 0.030 + 0.200), 1e-9);
  EXPECT_NEAR(AloneSeconds(rates, WorkOfTokens(250, 21)), 23 * 0.004, 1e-9);
  // Two wait: the third end frees its place. The prompts are done long before.
  EXPECT_NEAR(AheadSeconds(rates, {2, 100}), 3.0 / 20, 1e-9);
  EXPECT_NEAR(AheadSeconds(rates, {2, 1000}), 0.5, 1e-9);
}

TEST(DeadlineTest, SamplesRunSideBySideAsFarAsThereArePlaces) {
  const Rates rates = BusyRates();
  Work work = WorkOfTokens(250, 21);
  work.num_samples = 4;
  EXPECT_NEAR(OwnSeconds(rates, work), (0.100 + 0.030 + 0.200), 1e-9);
  work.num_samples = 10;  // on 4 places: 52.5 steps
  EXPECT_NEAR(OwnSeconds(rates, work), (0.100 + 0.030 + 0.515), 1e-9);
}

TEST(DeadlineTest, PlacesThatAreFreeNeedNoEnd) {
  Rates rates = BusyRates();
  rates.num_running = 1;
  EXPECT_NEAR(AheadSeconds(rates, {2, 0}), 0, 1e-9);
  EXPECT_NEAR(AheadSeconds(rates, {3, 0}), 1.0 / 20, 1e-9);
}

TEST(DeadlineTest, NothingIsRefusedBeforeAnythingIsMeasured) {
  Rates rates;
  rates.num_running = 4;
  rates.max_running = 4;
  EXPECT_TRUE(CheckDeadline(rates, WorkOfTokens(1'000'000, 100'000), {200, 10'000'000}, absl::Milliseconds(1)).ok());
  EXPECT_TRUE(CheckStart(rates, WorkOfTokens(1'000'000, 100'000), absl::Seconds(9), absl::Milliseconds(1)).ok());
}

TEST(DeadlineTest, AnIdleEngineTriesEverything) {
  Rates rates = BusyRates();
  rates.num_running = 0;
  EXPECT_TRUE(CheckDeadline(rates, WorkOfTokens(100'000, 100'000), {}, absl::Milliseconds(1)).ok());
  EXPECT_TRUE(CheckStart(rates, WorkOfTokens(100'000, 100'000), absl::Seconds(1), absl::Milliseconds(1)).ok());
}

TEST(DeadlineTest, WhatNoServerCouldEndInTimeIsDeadlineExceededWithoutADelay) {
  const absl::Status status = CheckDeadline(BusyRates(), WorkOfTokens(10, 1000), {}, absl::Seconds(1));
  EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(status.message(), "deadline: in 1 s, and the request takes about 4 s on an idle server");
  EXPECT_FALSE(RetryDelay(status).has_value());
}

TEST(DeadlineTest, WhatTheLoadForbidsIsResourceExhaustedWithTheTimeThatIsMissing) {
  const absl::Status status = CheckDeadline(BusyRates(), WorkOfTokens(10, 101), {39, 0}, absl::Seconds(2.5));
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(
      status.message(),
      "deadline: in 2.5 s, and the request takes about 1.17 s at the present load, after about 2.5 s in the queue");
  ASSERT_TRUE(RetryDelay(status).has_value());
  EXPECT_EQ(*RetryDelay(status), absl::Milliseconds(1166));
  EXPECT_TRUE(CheckDeadline(BusyRates(), WorkOfTokens(10, 101), {39, 0}, absl::Seconds(3.67)).ok());
}

TEST(DeadlineTest, APassedDeadlineIsSaidSo) {
  const absl::Status status = CheckDeadline(BusyRates(), WorkOfTokens(1, 1), {}, absl::Milliseconds(-20));
  EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(status.message(), "deadline: passed 0.02 s ago");
}

TEST(DeadlineTest, NoDeadlineIsNeverChecked) {
  EXPECT_TRUE(
      CheckDeadline(BusyRates(), WorkOfTokens(1 << 20, 1 << 20), {1000, 1 << 20}, absl::InfiniteDuration()).ok());
}

TEST(DeadlineTest, AnswersMayEndEarlyUntilNineInTenDoNot) {
  Work work = WorkOfTokens(10, 1000);
  work.min_answer_tokens = 1;
  Rates rates = BusyRates();
  EXPECT_TRUE(CheckDeadline(rates, work, {}, absl::Seconds(1)).ok());
  rates.answer_tokens = 300;
  rates.answer_ratio = 0.5;
  EXPECT_NEAR(OwnSeconds(rates, work), (0.010 + 0.004 + 299 * 0.010), 1e-9);
  rates.answer_ratio = 0.1;
  EXPECT_NEAR(OwnSeconds(rates, work), (0.010 + 0.004 + 99 * 0.010), 1e-9);
}

TEST(DeadlineTest, PromptsThatTheCacheUsuallyHoldsCostLess) {
  Rates rates = BusyRates();
  rates.computed_ratio = 0.1;
  EXPECT_NEAR(OwnSeconds(rates, WorkOfTokens(1000, 1)), 0.050, 1e-9);
}

TEST(WaitingSharesTest, AheadIsWhatFairServiceServesFirst) {
  WaitingShares waiting;
  const auto add = [&](const char* caller, int32_t priority, int32_t count, int64_t tokens) {
    for (int i = 0; i < count; ++i) {
      waiting.AddRequest(caller, priority);
      waiting.AddTokens(caller, priority, tokens);
    }
  };
  add("flood", 0, 100, 10);
  add("few", 0, 2, 10);
  add("urgent", 1, 5, 10);
  add("late", -1, 50, 10);
  waiting.AddRequest("new", 0);
  const WaitingAhead first = waiting.Ahead("new", 0, 30);
  EXPECT_EQ(first.num_samples, 5 + 1 + 1);
  EXPECT_EQ(first.num_tokens, 50 + 30 + 20);
  waiting.AddRequest("flood", 0);
  const WaitingAhead last = waiting.Ahead("flood", 0, 10);
  EXPECT_EQ(last.num_samples, 5 + 100 + 2 + 1);
  EXPECT_EQ(last.num_tokens, 50 + 1000 + 20);
  EXPECT_EQ(waiting.total().num_requests, 159);
  waiting.Remove("new", 0, 0);
  EXPECT_EQ(waiting.Of("new").num_requests, 0);
}

TEST(WaitingSharesTest, ARequestIsAheadWithAllItsSamplesAndLeavesWithThem) {
  WaitingShares waiting;
  waiting.AddRequest("a", 0, 8);
  waiting.AddRequest("b", 0, 3);
  waiting.AddTokens("b", 0, 20);
  EXPECT_EQ(waiting.Ahead("a", 0, 10, 8).num_samples, 3);
  EXPECT_EQ(waiting.Ahead("b", 0, 10, 3).num_samples, 3) << "as many of the other's as of its own";
  waiting.AddRequest("b", 0, 2);
  EXPECT_EQ(waiting.Ahead("b", 0, 10, 2).num_samples, 5 + 3);
  EXPECT_EQ(waiting.total().num_requests, 3) << "a request takes one place of the queue";
  waiting.Remove("a", 0, 0, 8);
  waiting.Remove("b", 0, 20, 3);
  waiting.Remove("b", 0, 0, 2);
  EXPECT_EQ(waiting.total().num_requests, 0);
  EXPECT_EQ(waiting.total().num_samples, 0);
  EXPECT_EQ(waiting.total().num_tokens, 0);
}

TEST(RetryDelayTest, TravelsWithTheStatusWithinItsBounds) {
  const absl::Status full = absl::ResourceExhaustedError("full");
  EXPECT_FALSE(RetryDelay(full).has_value());
  EXPECT_EQ(*RetryDelay(WithRetryDelay(full, absl::Milliseconds(2345))), absl::Milliseconds(2345));
  EXPECT_EQ(*RetryDelay(WithRetryDelay(full, absl::ZeroDuration())), absl::Milliseconds(100));
  EXPECT_EQ(*RetryDelay(WithRetryDelay(full, absl::InfiniteDuration())), absl::Minutes(1));
  EXPECT_EQ(WithRetryDelay(full, absl::Seconds(1)).message(), "full");
}

}  // namespace
}  // namespace spotlight::engine
