#include "server/request_reads.h"

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace spotlight::server {
namespace {

constexpr auto kCallers = RequestReads::Room::kCallers;
constexpr auto kAnyone = RequestReads::Room::kAnyone;

class FakeRequest final : public RequestReads::Request {
 public:
  bool started() const { return started_; }
  absl::Status refused() {
    MutexLock lock(&mutex_);
    return refused_;
  }
  absl::Status WaitForRefusal() {
    MutexLock lock(&mutex_);
    while (refused_.ok()) told_.Wait(&mutex_);
    return refused_;
  }

 private:
  void StartReading() override { started_ = true; }
  void RefuseReading(const absl::Status& status) override {
    MutexLock lock(&mutex_);
    refused_ = status;
    told_.NotifyAll();
  }

  bool started_ = false;
  Mutex mutex_;
  CondVar told_;
  absl::Status refused_ ABSL_GUARDED_BY(mutex_);
};

class RequestReadsTest : public ::testing::Test {
 protected:
  static RequestReads::Bounds Bounds(int64_t num_reading, int64_t num_waiting) {
    RequestReads::Bounds bounds;
    bounds.callers = bounds.anyone = {num_reading, num_waiting, 16 << 20, absl::ZeroDuration()};
    return bounds;
  }
  FakeRequest* Begin(const std::string& caller, RequestReads::Room room = kCallers) {
    requests_.push_back(std::make_unique<FakeRequest>());
    reads_.Begin(requests_.back().get(), room, caller, nullptr);
    return requests_.back().get();
  }

  RequestReads reads_{Bounds(6, 4)};
  std::vector<std::unique_ptr<FakeRequest>> requests_;
};

TEST_F(RequestReadsTest, ACallerHasAsManyPlacesAsItLeavesFree) {
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Begin("greedy")->started());
  EXPECT_FALSE(Begin("greedy")->started());
  EXPECT_TRUE(Begin("other")->started());
  EXPECT_TRUE(Begin("third")->started());
  EXPECT_FALSE(Begin("other")->started()) << "one place is free, and it has one";
  EXPECT_TRUE(Begin("fourth")->started());
  EXPECT_FALSE(Begin("fifth")->started()) << "none is";
}

TEST_F(RequestReadsTest, WhatWaitsIsLetInByTurnsOfCallers) {
  std::vector<FakeRequest*> reading;
  for (const char* caller : {"a", "a", "a", "b", "c", "d"}) reading.push_back(Begin(caller));
  FakeRequest* const first = Begin("e");
  FakeRequest* const second = Begin("e");
  FakeRequest* const other = Begin("f");
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(reads_.End(reading[i]).ok());
  EXPECT_TRUE(first->started());
  EXPECT_TRUE(other->started()) << "before the second of the same caller";
  EXPECT_FALSE(second->started());
  for (int i = 2; i < 4; ++i) EXPECT_TRUE(reads_.End(reading[i]).ok());
  EXPECT_TRUE(second->started());
}

TEST_F(RequestReadsTest, TooManyThatWaitAreRefused) {
  for (int i = 0; i < 5; ++i) Begin("greedy");
  FakeRequest* const refused = Begin("greedy");
  EXPECT_EQ(refused->refused().message(), "request_reads: 2 requests wait to be read, 2 of them this caller's");
  EXPECT_TRUE(Begin("other")->started());
  EXPECT_FALSE(reads_.Leave(refused)) << "it has been told already";
}

TEST_F(RequestReadsTest, WhoLeavesWhileWaitingIsForgotten) {
  std::vector<FakeRequest*> requests;
  for (int i = 0; i < 5; ++i) requests.push_back(Begin("a"));
  EXPECT_FALSE(reads_.Leave(requests[0])) << "it is being read";
  EXPECT_TRUE(reads_.Leave(requests[3]));
  EXPECT_FALSE(reads_.Leave(requests[3]));
  EXPECT_TRUE(reads_.End(requests[0]).ok());
  EXPECT_TRUE(requests[4]->started());
  EXPECT_FALSE(requests[3]->started());
}

TEST_F(RequestReadsTest, TheRoomsAreApart) {
  for (int i = 0; i < 6; ++i) Begin(std::to_string(i), kAnyone);
  EXPECT_FALSE(Begin("late", kAnyone)->started());
  EXPECT_TRUE(Begin("late", kCallers)->started());
}

TEST(RequestReadsPatienceTest, WhoWaitsTooLongIsTold) {
  RequestReads::Bounds bounds;
  bounds.callers.num_reading = 0;
  bounds.callers.patience = absl::Milliseconds(30);
  RequestReads reads(bounds);
  FakeRequest request;
  reads.Begin(&request, kCallers, "a", nullptr);
  const absl::Status refused = request.WaitForRefusal();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(refused.message(),
            "request_reads: the request waited 30ms to be read, behind others that do not come to their ends");
}

TEST(RequestReadsDrainTest, WhatWaitsEndsWithItsRoom) {
  RequestReads::Bounds bounds;
  bounds.callers.num_reading = bounds.anyone.num_reading = 0;
  RequestReads reads(bounds);
  FakeRequest ended, other;
  reads.Begin(&ended, kCallers, "a", nullptr);
  reads.Begin(&other, kAnyone, "a", nullptr);
  reads.EndAll(kCallers, absl::UnavailableError("draining"));
  EXPECT_EQ(ended.refused(), absl::UnavailableError("draining"));
  EXPECT_TRUE(other.refused().ok());
  EXPECT_FALSE(reads.Leave(&ended));
  EXPECT_TRUE(reads.Leave(&other));
}

}  // namespace
}  // namespace spotlight::server
