// Deadlines and cancellation in the loop, counted in steps.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/admission/retry_delay.h"
#include "tests/engine/engine_loop_fixture.h"

namespace spotlight::engine {
namespace {

using absl::StatusCode;

class EngineLoopDeadlineTest : public EngineLoopTest {
 protected:
  // A step takes 10 ms.
  void StartTimed() {
    Start();
    runner_->OnRun([this](const Batch&) { clock_.Advance(absl::Milliseconds(10)); });
  }
  // One request to its end, so that a step's time is known.
  void MeasureSteps() {
    Submit(Request("measure", 20), {1, 2, 3});
    RunUntilIdle();
    ASSERT_NEAR(queue_->rates()->Read().step_seconds, 0.010, 1e-9);
  }
  static GenerateRequest RequestUntil(const std::string& id, int32_t max_tokens, absl::Duration timeout) {
    GenerateRequest request = Request(id, max_tokens);
    request.timeout = timeout;
    return request;
  }
  // What the door says.
  absl::Status Check(const std::string& id, int32_t max_tokens, int32_t prompt_tokens, absl::Duration timeout) {
    const RequestKey key = {id, ""};
    Reservation reservation(key);
    reservation.deadline = clock_.Now() + timeout;
    const GenerateRequest request = RequestUntil(id, max_tokens, timeout);
    EXPECT_TRUE(queue_->Reserve(reservation).ok());
    const absl::Status status =
        queue_->CheckDeadline(key, WorkOf(request, prompt_tokens, loop_->max_request_tokens()), clock_.Now());
    queue_->Release(key);
    queue_->End();
    return status;
  }
};

TEST_F(EngineLoopDeadlineTest, ADeadlineThatPassesFreesPagesInTheNextPassAndNoStepDecodesFurther) {
  StartTimed();
  const auto late = Submit(RequestUntil("late", 100, absl::Milliseconds(35)), PromptIds(100, 1));
  const auto other = Submit(Request("other", 100), PromptIds(10, 2));
  for (int step = 0; step < 4; ++step) {
    loop_->RunOnce();
    ASSERT_FALSE(late->finished()) << step;
  }
  const int32_t free = loop_->load().num_free_pages;
  int32_t rows = 0;
  runner_->OnRun([&](const Batch& batch) { rows = batch.num_rows; });
  loop_->RunOnce();  // at 40 ms
  EXPECT_EQ(rows, 1);
  EXPECT_EQ(loop_->load().num_free_pages, free + 2);
  EXPECT_EQ(late->finish().status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(late->finish().reason, FinishReason::kDeadline);
  EXPECT_EQ(late->finish().usage.completion_tokens, 4);
  ASSERT_EQ(observer_.steps().back().cancel_releases.size(), 1u);
  EXPECT_EQ(observer_.steps().back().cancel_releases[0].phase, RequestPhase::kDecode);
  EXPECT_NEAR(observer_.steps().back().cancel_releases[0].seconds, 0.005, 1e-9);
  EXPECT_EQ(observer_.requests().back().wasted_tokens, 1);  // made at 40 ms
  EXPECT_FALSE(other->finished());
}

TEST_F(EngineLoopDeadlineTest, CancelReleasesNameThePhase) {
  options_.scheduler.max_running = 2;
  StartTimed();
  Submit(Request("decode", 100), {1, 2});
  loop_->RunOnce();
  Submit(Request("prefill", 100), PromptIds(1000, 2));
  loop_->RunOnce();
  Submit(Request("queued", 100), {3, 2});
  loop_->RunOnce();
  for (const char* id : {"decode", "prefill", "queued"}) {
    ASSERT_TRUE(queue_->Cancel(id, CancelReason::kAborted, clock_.Now()).ok());
  }
  loop_->RunOnce();
  const std::vector<CancelRelease> releases = observer_.steps().back().cancel_releases;
  ASSERT_EQ(releases.size(), 3u);
  EXPECT_EQ(releases[0].phase, RequestPhase::kDecode);
  EXPECT_EQ(releases[1].phase, RequestPhase::kPrefill);
  EXPECT_EQ(releases[2].phase, RequestPhase::kQueued);
  EXPECT_EQ(loop_->load().num_free_pages, 64);
}

TEST_F(EngineLoopDeadlineTest, NoAbandonedStreamGetsMoreThanTheTokenOfTheStepUnderWay) {
  Start();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 8; ++i) sinks.push_back(Submit(Request(std::to_string(i), 100), PromptIds(10, 1 + i)));
  // Each leaves while a step is under way, one a step.
  runner_->OnRun([&](const Batch&) {
    clock_.Advance(absl::Milliseconds(10));
    const int64_t run = runner_->num_runs();
    if (run <= 8) {
      ASSERT_TRUE(queue_->Cancel(std::to_string(run - 1), CancelReason::kClientGone, clock_.Now()).ok());
      clock_.Advance(absl::Milliseconds(1));
    }
  });
  RunUntilIdle();
  int32_t wasted = 0;
  for (const RequestStats& ended : observer_.requests()) wasted += ended.wasted_tokens;
  EXPECT_LE(wasted, 8);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(sinks[i]->finish().usage.completion_tokens, i + 1) << i;
  EXPECT_EQ(runner_->num_runs(), 8);  // not one step for nobody
  for (const StepStats& step : observer_.steps()) {
    for (const CancelRelease& release : step.cancel_releases) EXPECT_NEAR(release.seconds, 0.001, 1e-9);
  }
}

TEST_F(EngineLoopDeadlineTest, TheDoorRefusesNothingUntilStepsAreMeasured) {
  StartTimed();
  Submit(Request("first", 5), {1, 2, 3});
  loop_->RunOnce();
  EXPECT_TRUE(Check("a", 1000, 1000, absl::Milliseconds(1)).ok());
}

TEST_F(EngineLoopDeadlineTest, TheDoorRefusesWhatNoServerCouldEndInTime) {
  StartTimed();
  MeasureSteps();
  Submit(Request("busy", 1000), {1, 2, 3});
  loop_->RunOnce();
  // 200 tokens at 10 ms.
  EXPECT_EQ(Check("a", 200, 3, absl::Seconds(1.95)).code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Check("a", 200, 3, absl::Seconds(2.25)).code(), StatusCode::kResourceExhausted) << "with its margin 2.3 s";
  EXPECT_TRUE(Check("a", 200, 3, absl::Seconds(2.35)).ok());
  EXPECT_TRUE(Check("a", 200, 3, absl::InfiniteDuration()).ok());
}

TEST_F(EngineLoopDeadlineTest, TheDoorCountsTheQueueAndSaysWhenToComeBack) {
  options_.scheduler.max_running = 2;
  StartTimed();
  MeasureSteps();
  for (int i = 0; i < 8; ++i) Submit(Request("warm" + std::to_string(i), 10), {1, 2, 3});
  RunUntilIdle();
  // Two at a time, 10 steps of 10 ms each: 20 end a second.
  for (int i = 0; i < 20; ++i) Submit(Request(std::to_string(i), 10), {1, 2, 3});
  loop_->RunOnce();
  EXPECT_NEAR(queue_->rates()->Read().ends_per_second, 20, 6);
  const absl::Status status = Check("a", 10, 3, absl::Milliseconds(500));
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status;
  ASSERT_TRUE(RetryDelay(status).has_value());
  EXPECT_NEAR(absl::ToDoubleSeconds(*RetryDelay(status)), 0.45, 0.3);
  EXPECT_TRUE(Check("a", 10, 3, absl::Seconds(3)).ok());
}

TEST_F(EngineLoopDeadlineTest, NothingIsStartedThatCannotEnd) {
  options_.scheduler.max_running = 1;
  StartTimed();
  MeasureSteps();
  Submit(Request("runs", 50), {1, 2, 3});
  loop_->RunOnce();
  // It needs 300 ms, and the place is free after 500.
  const auto waits = Submit(RequestUntil("waits", 30, absl::Milliseconds(600)), {2, 2, 3});
  const auto patient = Submit(RequestUntil("patient", 30, absl::Milliseconds(900)), {3, 2, 3});
  RunUntilIdle();
  EXPECT_EQ(waits->finish().status.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(waits->finish().status.message().substr(0, 10), "deadline: ");
  EXPECT_TRUE(RetryDelay(waits->finish().status).has_value());
  EXPECT_EQ(waits->finish().reason, FinishReason::kError);
  EXPECT_TRUE(waits->token_ids().empty());
  EXPECT_TRUE(patient->finish().status.ok()) << patient->finish().status;
  EXPECT_EQ(loop_->load().num_free_pages, 64);
  EXPECT_TRUE(queue_->WaitUntilIdle(absl::ZeroDuration()));
}

TEST_F(EngineLoopDeadlineTest, ADeadlineThatPassesInTheQueueIsSaidSo) {
  options_.scheduler.max_running = 1;
  StartTimed();  // nothing is measured yet
  Submit(Request("runs", 5), {1, 2, 3});
  const auto waits = Submit(RequestUntil("waits", 30, absl::Milliseconds(15)), {2, 2, 3});
  RunUntilIdle();
  EXPECT_EQ(waits->finish().status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(waits->finish().reason, FinishReason::kDeadline);
  EXPECT_TRUE(waits->token_ids().empty());
}

TEST_F(EngineLoopDeadlineTest, PrioritiesAndCallersDecideWhoStarts) {
  options_.scheduler.max_running = 1;
  Start();
  Submit(Request("runs", 3), {1, 2, 3});
  loop_->RunOnce();
  std::vector<std::string> order;
  const auto submit = [&](const std::string& id, const std::string& caller, int32_t priority) {
    GenerateRequest request = Request(id, 2);
    request.caller = caller;
    request.priority = priority;
    return Submit(request, {1, 2, 3});
  };
  for (const char* id : {"a1", "a2", "a3"}) submit(id, "a", 0);
  submit("b1", "b", 0);
  submit("c1", "c", 5);
  RunUntilIdle();
  for (const RequestStats& ended : observer_.requests()) order.push_back(ended.request_id);
  EXPECT_EQ(order, (std::vector<std::string>{"runs", "c1", "a1", "b1", "a2", "a3"}));
}

TEST_F(EngineLoopDeadlineTest, SamplesHaveOneDeadlineAndEndAtItTogether) {
  options_.scheduler.max_running = 2;
  StartTimed();
  GenerateRequest request = RequestUntil("late", 100, absl::Milliseconds(45));
  request.sampling.n = 3;  // the third waits for a place
  const auto late = Submit(request, PromptIds(100, 1));
  for (int step = 0; step < 5; ++step) {
    loop_->RunOnce();
    ASSERT_FALSE(late->finished()) << step;
  }
  EXPECT_EQ(loop_->num_with_deadline(), 1);
  loop_->RunOnce();  // at 50 ms
  EXPECT_EQ(late->finish().status.code(), StatusCode::kDeadlineExceeded);
  const std::vector<Finish> finishes = late->sample_finishes();
  ASSERT_EQ(finishes.size(), 3u);
  for (const Finish& finish : finishes) EXPECT_EQ(finish.reason, FinishReason::kDeadline);
  EXPECT_EQ(loop_->num_with_deadline(), 0);
  EXPECT_EQ(loop_->load().num_running, 0);
  EXPECT_EQ(loop_->load().num_waiting, 0);
  EXPECT_EQ(loop_->load().num_free_pages, 64);
  ASSERT_EQ(observer_.steps().back().cancel_releases.size(), 1u) << "a request is released once";
  EXPECT_EQ(observer_.steps().back().cancel_releases[0].phase, RequestPhase::kDecode);
  EXPECT_NEAR(observer_.steps().back().cancel_releases[0].seconds, 0.005, 1e-9);
  ASSERT_EQ(observer_.requests().size(), 1u) << "and counted once";
  EXPECT_EQ(observer_.requests()[0].phase, RequestPhase::kDecode) << "though the last sample never started";
  EXPECT_EQ(observer_.requests()[0].wasted_tokens, 2) << "one of each that ran, made at 50 ms";
  EXPECT_TRUE(queue_->WaitUntilIdle(absl::ZeroDuration()));
}

TEST_F(EngineLoopDeadlineTest, DeadlinesAreCountedBackToZeroHoweverSamplesEnd) {
  options_.scheduler.max_running = 4;
  StartTimed();
  const auto submit = [&](const std::string& id, int32_t first_prompt_token) {
    GenerateRequest request = RequestUntil(id, 20, absl::Seconds(1));
    request.sampling.n = 3;
    return Submit(request, PromptIds(100, first_prompt_token));
  };
  runner_->ScriptNan(2, 3);
  const auto answered = submit("answered", 1), failed = submit("failed", 2), aborted = submit("aborted", 3);
  const auto queued = submit("queued", 4);
  for (int step = 0; step < 3; ++step) loop_->RunOnce();
  EXPECT_EQ(loop_->num_with_deadline(), 4);
  for (const char* id : {"aborted", "queued"}) {
    ASSERT_TRUE(queue_->Cancel(id, CancelReason::kAborted, clock_.Now()).ok());
  }
  RunUntilIdle();
  EXPECT_TRUE(answered->finish().status.ok());
  EXPECT_EQ(failed->finish().status.code(), StatusCode::kInternal);
  EXPECT_EQ(aborted->finish().reason, FinishReason::kAborted);
  EXPECT_EQ(queued->finish().reason, FinishReason::kAborted);
  EXPECT_EQ(loop_->num_with_deadline(), 0);
  EXPECT_EQ(observer_.requests().size(), 4u);

  const auto faulted = submit("faulted", 1);
  loop_->RunOnce();
  EXPECT_EQ(loop_->num_with_deadline(), 1);
  runner_->Fail(absl::InternalError("gone"));
  RunUntilIdle();
  EXPECT_EQ(faulted->finish().status.code(), StatusCode::kInternal);
  EXPECT_EQ(loop_->num_with_deadline(), 0);
  EXPECT_TRUE(queue_->WaitUntilIdle(absl::ZeroDuration()));
}

TEST_F(EngineLoopDeadlineTest, WhatWaitsIsRefusedWithAllItsSamples) {
  options_.scheduler.max_running = 1;
  StartTimed();
  MeasureSteps();
  Submit(Request("runs", 50), {1, 2, 3});
  loop_->RunOnce();
  GenerateRequest request = RequestUntil("waits", 30, absl::Seconds(1));
  request.sampling.n = 4;  // one after the other: 1.2 s
  const auto waits = Submit(request, {2, 2, 3});
  loop_->RunOnce();
  EXPECT_EQ(waits->finish().status.code(), StatusCode::kDeadlineExceeded) << "no server of one place could";
  EXPECT_EQ(waits->sample_finishes().size(), 4u);
  EXPECT_EQ(loop_->num_with_deadline(), 0);
  RunUntilIdle();
  EXPECT_EQ(observer_.requests().size(), 3u);
}

TEST_F(EngineLoopDeadlineTest, OfARequestsSamplesTheFirstCountsAsItsAnswer) {
  StartTimed();
  const auto answer_tokens = [&](const std::string& id) {
    for (int i = 0; i < 8; ++i) {
      GenerateRequest request = Request(id + std::to_string(i), 10);
      request.sampling.n = 3;
      Submit(request, {1, 2, 3});
    }
    RunUntilIdle();
    return queue_->rates()->Read().answer_tokens;
  };
  EXPECT_EQ(answer_tokens("a"), 0) << "8 answers are too few";
  EXPECT_EQ(answer_tokens("b"), 10);
}

TEST_F(EngineLoopDeadlineTest, PlacesAreFreedAtTheSameRateBySamplesAndByRequests) {
  options_.scheduler.max_running = 2;
  StartTimed();
  MeasureSteps();
  const auto ends_per_second = [&](int32_t num_requests, int32_t num_samples) {
    for (int i = 0; i < num_requests; ++i) {
      GenerateRequest request = Request(std::to_string(i), 10);
      request.sampling.n = num_samples;
      Submit(request, {1, 2, 3});
    }
    RunUntilIdle();
    return queue_->rates()->Read().ends_per_second;
  };
  // Two at a time, 10 steps of 10 ms each; the latest 64 ends count.
  EXPECT_NEAR(ends_per_second(80, 1), 20, 2);
  EXPECT_NEAR(ends_per_second(20, 4), 20, 2);
}

}  // namespace
}  // namespace spotlight::engine
