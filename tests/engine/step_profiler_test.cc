#include "engine/step_profiler.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {

class FakeRecorder : public StepRecorder {
 public:
  FakeRecorder(absl::Status start, std::atomic<bool>* started) : start_(std::move(start)), started_(started) {}
  absl::Status Start() override {
    *started_ = true;
    return start_;
  }
  absl::StatusOr<RenderRecording> Stop() override {
    return RenderRecording([]() -> absl::StatusOr<std::string> { return std::string("{}"); });
  }

 private:
  const absl::Status start_;
  std::atomic<bool>* const started_;
};

class StepProfilerTest : public ::testing::Test {
 protected:
  // Asks for a profile, while this thread is the engine's.
  void Ask(int32_t num_steps, absl::Duration timeout) {
    asking_ = std::thread([this, num_steps, timeout] {
      result_ = profiler_->Profile(num_steps, timeout);
      done_ = true;
    });
  }
  int PassesUntilDone(bool ran_step) {
    int num_passes = 0;
    while (!done_) {
      profiler_->BeforePass();
      profiler_->AfterPass(ran_step);
      ++num_passes;
      std::this_thread::yield();
    }
    asking_.join();
    return num_passes;
  }

  std::atomic<bool> started_{false};
  std::unique_ptr<StepProfiler> profiler_ =
      std::make_unique<StepProfiler>(std::make_unique<FakeRecorder>(absl::OkStatus(), &started_));
  std::thread asking_;
  std::atomic<bool> done_{false};
  absl::StatusOr<std::string> result_;
};

TEST_F(StepProfilerTest, GivesWhatSoManyStepsLeft) {
  Ask(5, absl::Seconds(60));
  EXPECT_GE(PassesUntilDone(true), 5);
  ASSERT_TRUE(result_.ok()) << result_.status();
  EXPECT_EQ(*result_, "{}");
}

TEST_F(StepProfilerTest, GivesWhatThereIsWhenTheTimeIsUp) {
  Ask(1 << 30, absl::Milliseconds(20));
  PassesUntilDone(true);
  EXPECT_TRUE(result_.ok()) << result_.status();
}

TEST_F(StepProfilerTest, AnIdleEngineIsToldOf) {
  EXPECT_EQ(profiler_->Profile(1, absl::Milliseconds(10)).status().code(), absl::StatusCode::kDeadlineExceeded);
  Ask(1, absl::Milliseconds(10));
  PassesUntilDone(false);
  EXPECT_EQ(result_.status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(StepProfilerTest, AnIdleEngineIsWokenToEndARecording) {
  std::atomic<bool> woken{false};
  profiler_->SetWake([&woken] { woken = true; });
  Ask(2, absl::Milliseconds(50));
  while (!woken) {
    profiler_->BeforePass();
    std::this_thread::yield();
  }
  profiler_->AfterPass(true);
  asking_.join();
  EXPECT_TRUE(result_.ok()) << result_.status();
}

TEST_F(StepProfilerTest, OneAtATime) {
  Ask(1 << 30, absl::Seconds(60));
  while (!started_) profiler_->BeforePass();
  EXPECT_EQ(profiler_->Profile(1, absl::ZeroDuration()).status().code(), absl::StatusCode::kAlreadyExists);
  profiler_->Close();
  asking_.join();
  EXPECT_EQ(result_.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(profiler_->Profile(1, absl::Seconds(1)).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(StepProfilerTest, ARecorderThatFailsIsToldOfAndTriedAgain) {
  profiler_ =
      std::make_unique<StepProfiler>(std::make_unique<FakeRecorder>(absl::InternalError("no Kineto"), &started_));
  for (int i = 0; i < 2; ++i) {
    done_ = false;
    Ask(1, absl::Seconds(60));
    PassesUntilDone(true);
    EXPECT_EQ(result_.status(), absl::InternalError("no Kineto"));
  }
}

TEST_F(StepProfilerTest, AnEngineThatStopsEndsTheRecording) {
  Ask(1 << 30, absl::Seconds(60));
  while (!started_) profiler_->BeforePass();
  profiler_->AfterPass(true);
  profiler_->OnEngineStop();
  asking_.join();
  EXPECT_TRUE(result_.ok()) << result_.status();
}

}  // namespace
}  // namespace spotlight::engine
