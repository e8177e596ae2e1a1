#include "engine/fair_workers.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {

// One thread, busy until Open: what is posted meanwhile waits.
class FairWorkersTest : public testing::Test {
 protected:
  void Start(const WorkBounds& bounds) {
    workers_ = std::make_unique<FairWorkers>(1, bounds);
    ASSERT_TRUE(workers_->Post({"", "busy", 0, [this] { Wait(); }}).ok());
    MutexLock lock(&mutex_);
    while (!busy_) changed_.Wait(&mutex_);
  }
  ~FairWorkersTest() override { Finish(); }

  absl::Status Post(const std::string& caller, int64_t num_bytes) {
    return workers_->Post({caller, caller, num_bytes, [this, caller] { done_ += caller; }});
  }
  // What was done, in order.
  std::string Finish() {
    {
      MutexLock lock(&mutex_);
      open_ = true;
      changed_.NotifyAll();
    }
    workers_->Stop();
    return done_;
  }

  std::unique_ptr<FairWorkers> workers_;

 private:
  void Wait() {
    MutexLock lock(&mutex_);
    busy_ = true;
    changed_.NotifyAll();
    while (!open_) changed_.Wait(&mutex_);
  }

  Mutex mutex_;
  CondVar changed_;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
  std::string done_;  // the worker's until Stop
};

TEST_F(FairWorkersTest, CallersTakeTurnsHoweverManyTasksEachHas) {
  Start({100, 1 << 20});
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(Post("a", 5000).ok());
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(Post("b", 5000).ok());
  EXPECT_EQ(Finish(), "ababaa");
}

TEST_F(FairWorkersTest, TurnsAreCountedInBytes) {
  Start({100, 1 << 20});
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(Post("a", 30000).ok());
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(Post("b", 10000).ok());
  EXPECT_EQ(Finish(), "abbbab");
}

TEST_F(FairWorkersTest, OneThatAlwaysComesBackDoesNotOvertake) {
  Start({100, 1 << 20});
  std::string done;
  const auto post = [&](const std::string& caller, const auto& then) {
    ASSERT_TRUE(workers_->Post({"", caller, 20000, [&done, caller, then] { done += caller, then(); }}).ok());
  };
  const auto nothing = [] {};
  post("a", [&] { post("a", [&] { post("a", nothing); }); });
  for (int i = 0; i < 3; ++i) post("b", nothing);
  Finish();
  EXPECT_EQ(done, "ababab");
}

TEST_F(FairWorkersTest, WhatWaitsIsBoundedInBytes) {
  Start({100, 100000});
  EXPECT_TRUE(Post("huge", 300000).ok()) << "one larger than the bound passes alone";
  const absl::Status full = Post("a", 1);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(full.message(),
            "encoding_queue: full, 300000 bytes of text wait to be encoded, 1 more exceed the bound of 100000");
  EXPECT_EQ(workers_->Withdraw("a", "huge"), nullptr) << "not its own";
  EXPECT_NE(workers_->Withdraw("huge", "huge"), nullptr);
  EXPECT_TRUE(Post("a", 60000).ok());
  EXPECT_FALSE(Post("b", 50000).ok());
  EXPECT_TRUE(Post("b", 40000).ok());
  EXPECT_EQ(Finish(), "ab");
}

TEST_F(FairWorkersTest, ACallerLeavesRoomForOthers) {
  Start({18, 900});
  absl::Status refused;
  int num_accepted = 0;
  for (; (refused = Post("a", 10)).ok(); ++num_accepted) ASSERT_LT(num_accepted, 18);
  EXPECT_EQ(num_accepted, 16) << "8 of 9";
  EXPECT_TRUE(absl::StartsWith(refused.message(), "caller_share: 16 texts of 160 bytes that wait")) << refused;
  EXPECT_TRUE(Post("b", 10).ok());
}

TEST_F(FairWorkersTest, ACallerLeavesRoomInBytes) {
  Start({1000, 900});
  int num_accepted = 0;
  for (; Post("a", 10).ok(); ++num_accepted) ASSERT_LT(num_accepted, 90);
  EXPECT_EQ(num_accepted, 80) << "8 of 9";
  EXPECT_TRUE(Post("b", 10).ok());
}

TEST_F(FairWorkersTest, StopRunsWhatIsLeft) {
  Start({100, 1 << 20});
  for (const char* caller : {"a", "b", "c"}) ASSERT_TRUE(Post(caller, 1).ok());
  EXPECT_EQ(Finish().size(), 3u);
}

}  // namespace
}  // namespace spotlight::engine
