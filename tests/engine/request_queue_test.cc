#include "engine/request_queue.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/admission/retry_delay.h"
#include "gtest/gtest.h"
#include "tests/testing/recording_sink.h"

namespace spotlight::engine {
namespace {

using absl::StatusCode;

RequestKey Key(const std::string& id, const std::string& caller = "") {
  return {id, caller};
}

QueueOptions Bounds(int32_t requests, int64_t tokens) {
  QueueOptions options;
  options.max_waiting_requests = requests;
  options.max_waiting_tokens = tokens;
  return options;
}

void Push(RequestQueue* queue, const std::string& id) {
  auto submission = std::make_unique<Submission>();
  submission->request.request_id = id;
  queue->Push(std::move(submission));
}

TEST(RequestQueueTest, RefusesMoreRequestsThanTheBoundUntilOneRuns) {
  RequestQueue queue(Bounds(2, 1000));
  ASSERT_TRUE(queue.Reserve(Reservation(Key("a"))).ok());
  ASSERT_TRUE(queue.Reserve(Reservation(Key("b"))).ok());
  const absl::Status full = queue.Reserve(Reservation(Key("c")));
  EXPECT_EQ(full.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(full.message(), "queue_requests: full, 2 requests wait, the bound is 2");
  queue.MarkRunning(Key("a"));
  EXPECT_TRUE(queue.Reserve(Reservation(Key("c"))).ok());
}

TEST(RequestQueueTest, RefusesMoreTokensThanTheBoundButNeverALonePrompt) {
  RequestQueue queue(Bounds(10, 100));
  for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(queue.Reserve(Reservation(Key(id))).ok());
  EXPECT_TRUE(queue.ReserveTokens(Key("a"), 500).ok());
  EXPECT_EQ(queue.ReserveTokens(Key("b"), 1).code(), StatusCode::kResourceExhausted);
  queue.Release(Key("a"));
  EXPECT_TRUE(queue.ReserveTokens(Key("b"), 60).ok());
  EXPECT_EQ(queue.ReserveTokens(Key("c"), 41).code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(queue.ReserveTokens(Key("c"), 40).ok());
  EXPECT_EQ(queue.num_waiting_tokens(), 100);
}

Reservation From(const std::string& caller, const std::string& id) {
  return Reservation(Key(id, caller));
}

TEST(RequestQueueTest, ACallerThatFloodsLeavesRoomForOthers) {
  RequestQueue queue(Bounds(90, 1000));
  int taken = 0;
  while (queue.Reserve(From("flood", std::to_string(taken))).ok()) ++taken;
  EXPECT_EQ(taken, 80);
  const absl::Status full = queue.Reserve(From("flood", "more"));
  EXPECT_EQ(full.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(full.message(), "caller_share: 80 of the 80 requests that wait are the caller's, the bound of all is 90");
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(queue.Reserve(From("b", "b" + std::to_string(i))).ok());
  // The flood's share has shrunk, to 8 times the 5 places left: it is refused until it has less.
  for (int i = 0; i < 7; ++i) queue.Release(Key(std::to_string(i), "flood"));
  EXPECT_TRUE(queue.Reserve(From("flood", "more")).ok());  // 73 against 8 * 12
  for (int i = 0; i < 9; ++i) EXPECT_TRUE(queue.Reserve(From("c", "c" + std::to_string(i))).ok()) << i;
  EXPECT_FALSE(queue.Reserve(From("flood", "one more")).ok());  // 74 against 8 * 2
}

TEST(RequestQueueTest, ACallersPromptsLeaveRoomForOthers) {
  RequestQueue queue(Bounds(1000, 900));
  int taken = 0;
  for (absl::Status status; status.ok(); ++taken) {
    const std::string id = std::to_string(taken);
    ASSERT_TRUE(queue.Reserve(From("flood", id)).ok());
    status = queue.ReserveTokens(Key(id, "flood"), 10);
  }
  EXPECT_EQ(queue.num_waiting_tokens(), 800);
  ASSERT_TRUE(queue.Reserve(From("b", "b")).ok());
  EXPECT_TRUE(queue.ReserveTokens(Key("b", "b"), 90).ok());
}

TEST(RequestQueueTest, AFullQueueSaysWhenHalfOfItWillHaveDrained) {
  RequestQueue queue(Bounds(4, 1000));
  queue.rates()->SetBounds(1, 100);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(queue.Reserve(Reservation(Key(std::to_string(i)))).ok());
  EXPECT_FALSE(RetryDelay(queue.Reserve(Reservation(Key("more")))).has_value());  // nothing is measured
  for (int i = 0; i < 40; ++i) queue.rates()->OnStep({0.5, 1, 0, 1, true});
  EXPECT_EQ(RetryDelay(queue.Reserve(Reservation(Key("more")))), absl::Seconds(1));  // 2 of 4, at 2 a second
}

TEST(RequestQueueTest, SamplesAheadTakePlacesAndAFullQueueDrainsBySample) {
  RequestQueue queue(Bounds(3, 1000));
  queue.rates()->SetBounds(1, 100);
  queue.rates()->OnLoad(1, 0);
  for (int i = 0; i < 40; ++i) queue.rates()->OnStep({0.5, 1, 0, 1, true});
  Work work;
  const auto check = [&] { return queue.CheckDeadline(Key("late", "late"), work, absl::ZeroDuration()); };
  Reservation late(Key("late", "late"));
  late.num_samples = 4;
  late.deadline = absl::Seconds(5);
  ASSERT_TRUE(queue.Reserve(late).ok());
  EXPECT_TRUE(check().ok());
  Reservation wide(Key("wide"));
  wide.num_samples = 10;
  wide.priority = 1;
  ASSERT_TRUE(queue.Reserve(wide).ok());
  EXPECT_EQ(check().code(), absl::StatusCode::kResourceExhausted) << "11 ends, at 2 a second";
  ASSERT_TRUE(queue.Reserve(Reservation(Key("last"))).ok());
  EXPECT_EQ(RetryDelay(queue.Reserve(Reservation(Key("more")))), absl::Seconds(3.75)) << "half of 15, at 2 a second";
  queue.MarkRunning(Key("wide"));
  EXPECT_TRUE(check().ok());
}

TEST(RequestQueueTest, CountsAreBackAtZeroWhateverTheOrderOfTheEnds) {
  RequestQueue queue(Bounds(10, 100));
  for (const char* id : {"a", "b", "c"}) {
    ASSERT_TRUE(queue.Reserve(Reservation(Key(id))).ok());
    ASSERT_TRUE(queue.ReserveTokens(Key(id), 20).ok());
  }
  queue.MarkRunning(Key("a"));
  EXPECT_EQ(queue.num_waiting(), 2);
  EXPECT_EQ(queue.num_waiting_tokens(), 40);
  queue.Release(Key("b"));
  queue.Release(Key("a"));
  queue.Release(Key("c"));
  EXPECT_EQ(queue.num_waiting(), 0);
  EXPECT_EQ(queue.num_waiting_tokens(), 0);
}

TEST(RequestQueueTest, AnIdIsTakenUntilItsRequestEnds) {
  RequestQueue queue(Bounds(10, 100));
  ASSERT_TRUE(queue.Reserve(Reservation(Key("a"))).ok());
  EXPECT_EQ(queue.Reserve(Reservation(Key("a"))).code(), StatusCode::kAlreadyExists);
  queue.MarkRunning(Key("a"));
  EXPECT_EQ(queue.Reserve(Reservation(Key("a"))).code(), StatusCode::kAlreadyExists);
  queue.Release(Key("a"));
  EXPECT_TRUE(queue.Reserve(Reservation(Key("a"))).ok());
}

TEST(RequestQueueTest, ACallersIdsAreItsOwn) {
  RequestQueue queue(Bounds(10, 100));
  RecordingSink ones, twos;
  Reservation one(Key("a", "one")), two(Key("a", "two"));
  one.sink = &ones;
  two.sink = &twos;
  ASSERT_TRUE(queue.Reserve(one).ok());
  EXPECT_TRUE(queue.Reserve(two).ok());
  EXPECT_EQ(queue.Reserve(two).code(), StatusCode::kAlreadyExists);
  ASSERT_TRUE(queue.Reserve(Reservation(Key("b", "one"))).ok());
  const auto left = queue.Cancel("a", CancelReason::kClientGone, absl::ZeroDuration(), {&twos});
  ASSERT_TRUE(left.ok());
  EXPECT_EQ(*left, std::vector<RequestKey>{Key("a", "two")});
  EXPECT_FALSE(queue.IsCancelled(Key("a", "one")));
}

TEST(RequestQueueTest, AnAbortEndsEveryCallersRequestOfTheId) {
  RequestQueue queue(Bounds(10, 100));
  for (const char* id : {"", "a", "ab"}) {
    for (const char* caller : {"", "one", "two"}) ASSERT_TRUE(queue.Reserve(Reservation(Key(id, caller))).ok());
  }
  const auto aborted = queue.Cancel("a", CancelReason::kAborted, absl::ZeroDuration());
  ASSERT_TRUE(aborted.ok());
  EXPECT_EQ(*aborted, (std::vector<RequestKey>{Key("a"), Key("a", "one"), Key("a", "two")}));
  EXPECT_FALSE(queue.IsCancelled(Key("ab")));
}

TEST(RequestQueueTest, AnAbortOfACallersOwnLeavesTheOthersWithItsIdAlone) {
  RequestQueue queue(Bounds(10, 100));
  for (const char* caller : {"", "one", "two"}) ASSERT_TRUE(queue.Reserve(Reservation(Key("a", caller))).ok());
  CancelScope own;
  own.caller = "one";
  const auto aborted = queue.Cancel("a", CancelReason::kAborted, absl::ZeroDuration(), own);
  ASSERT_TRUE(aborted.ok());
  EXPECT_EQ(*aborted, std::vector<RequestKey>{Key("a", "one")});
  own.caller = "three";
  EXPECT_EQ(queue.Cancel("a", CancelReason::kAborted, absl::ZeroDuration(), own).status().code(),
            StatusCode::kNotFound);
  own.caller = "";
  EXPECT_EQ(*queue.Cancel("a", CancelReason::kAborted, absl::ZeroDuration(), own),
            std::vector<RequestKey>{Key("a", "")});
  EXPECT_FALSE(queue.IsCancelled(Key("a", "two")));
}

TEST(RequestQueueTest, ACancellationWaitsForItsSubmission) {
  RequestQueue queue(Bounds(10, 100));
  ASSERT_TRUE(queue.Reserve(Reservation(Key("a"))).ok());
  ASSERT_TRUE(queue.Cancel("a", CancelReason::kDeadline, absl::Seconds(3)).ok());
  EXPECT_TRUE(queue.IsCancelled(Key("a")));
  Arrivals arrivals;
  queue.Take(&arrivals);
  EXPECT_TRUE(arrivals.cancellations.empty());
  Push(&queue, "a");
  queue.Take(&arrivals);
  EXPECT_EQ(arrivals.submissions.size(), 1u);
  ASSERT_EQ(arrivals.cancellations.size(), 1u);
  EXPECT_EQ(arrivals.cancellations[0].reason, CancelReason::kDeadline);
  EXPECT_EQ(arrivals.cancellations[0].time, absl::Seconds(3));
}

TEST(RequestQueueTest, OnlyTheFirstCancellationCounts) {
  RequestQueue queue(Bounds(10, 100));
  ASSERT_TRUE(queue.Reserve(Reservation(Key("a"))).ok());
  Push(&queue, "a");
  ASSERT_TRUE(queue.Cancel("a", CancelReason::kAborted, absl::Seconds(1)).ok());
  ASSERT_TRUE(queue.Cancel("a", CancelReason::kClientGone, absl::Seconds(2)).ok());
  Arrivals arrivals;
  queue.Take(&arrivals);
  ASSERT_EQ(arrivals.cancellations.size(), 1u);
  EXPECT_EQ(arrivals.cancellations[0].reason, CancelReason::kAborted);
}

TEST(RequestQueueTest, ACancellationDoesNotHitTheNextOwnerOfItsId) {
  RequestQueue queue(Bounds(10, 100));
  ASSERT_TRUE(queue.Reserve(Reservation(Key("a"))).ok());
  Push(&queue, "a");
  Arrivals arrivals;
  queue.Take(&arrivals);
  ASSERT_TRUE(queue.Cancel("a", CancelReason::kAborted, absl::Seconds(1)).ok());
  queue.Release(Key("a"));  // it ended by itself meanwhile
  ASSERT_TRUE(queue.Reserve(Reservation(Key("a"))).ok());
  Push(&queue, "a");
  queue.Take(&arrivals);
  EXPECT_EQ(arrivals.submissions.size(), 1u);
  EXPECT_TRUE(arrivals.cancellations.empty());
}

TEST(RequestQueueTest, ACancelOfASubmissionDoesNotHitAnotherWithItsId) {
  RequestQueue queue(Bounds(10, 100));
  RecordingSink first, second;
  Reservation first_a(Key("a")), second_a(Key("a"));
  first_a.sink = &first;
  second_a.sink = &second;
  ASSERT_TRUE(queue.Reserve(first_a).ok());
  queue.Release(Key("a"));
  ASSERT_TRUE(queue.Reserve(second_a).ok());
  EXPECT_EQ(queue.Cancel("a", CancelReason::kClientGone, absl::ZeroDuration(), {&first}).status().code(),
            StatusCode::kNotFound);
  EXPECT_FALSE(queue.IsCancelled(Key("a")));
  EXPECT_TRUE(queue.Cancel("a", CancelReason::kClientGone, absl::ZeroDuration(), {&second}).ok());
  EXPECT_TRUE(queue.IsCancelled(Key("a")));
}

TEST(RequestQueueTest, CancellingWhatIsNotThereIsNotFound) {
  RequestQueue queue(Bounds(10, 100));
  EXPECT_EQ(queue.Cancel("a", CancelReason::kAborted, absl::ZeroDuration()).status().code(), StatusCode::kNotFound);
}

TEST(RequestQueueTest, AClosedQueueRefusesWithTheFirstReasonGiven) {
  RequestQueue queue(Bounds(10, 100));
  queue.Close(absl::UnavailableError("draining"));
  queue.Close(absl::InternalError("later"));
  EXPECT_EQ(queue.Reserve(Reservation(Key("a"))), absl::UnavailableError("draining"));
}

TEST(RequestQueueTest, IdleMeansNothingInFlight) {
  RequestQueue queue(Bounds(10, 100));
  EXPECT_TRUE(queue.WaitUntilIdle(absl::ZeroDuration()));
  ASSERT_TRUE(queue.Reserve(Reservation(Key("a"))).ok());
  EXPECT_FALSE(queue.WaitUntilIdle(absl::ZeroDuration()));
  queue.MarkRunning(Key("a"));
  EXPECT_FALSE(queue.WaitUntilIdle(absl::Milliseconds(1)));
  queue.Release(Key("a"));
  EXPECT_FALSE(queue.WaitUntilIdle(absl::ZeroDuration()));  // its sink has not heard of it
  queue.End();
  EXPECT_TRUE(queue.WaitUntilIdle(absl::InfiniteDuration()));
}

}  // namespace
}  // namespace spotlight::engine
