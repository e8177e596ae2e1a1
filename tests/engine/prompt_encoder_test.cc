#include "engine/prompt_encoder.h"

#include <atomic>

#include "gtest/gtest.h"

namespace spotlight::engine {
namespace {

// Keeps all of an encoder's threads busy until it is opened.
class Gate {
 public:
  void Wait() {
    MutexLock lock(&mutex_);
    ++num_waiting_;
    changed_.NotifyAll();
    while (!open_) changed_.Wait(&mutex_);
  }
  void WaitForWaiting(int count) {
    MutexLock lock(&mutex_);
    while (num_waiting_ < count) changed_.Wait(&mutex_);
  }
  void Open() {
    MutexLock lock(&mutex_);
    open_ = true;
    changed_.NotifyAll();
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int num_waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  bool open_ ABSL_GUARDED_BY(mutex_) = false;
};

constexpr int kNumThreads = 2;

TEST(PromptEncoderTest, ATaskThatHasNotBegunCanBeWithdrawn) {
  PromptEncoder encoder(nullptr, nullptr, 100);
  Gate gate;
  for (int i = 0; i < kNumThreads; ++i) encoder.Schedule("busy", [&] { gate.Wait(); });
  gate.WaitForWaiting(kNumThreads);
  std::atomic<int> runs{0};
  encoder.Schedule("a", [&] { ++runs; });
  encoder.Schedule("b", [&] { ++runs; });
  EXPECT_EQ(encoder.Withdraw("busy"), nullptr);
  const auto task = encoder.Withdraw("a");
  ASSERT_NE(task, nullptr);
  EXPECT_EQ(encoder.Withdraw("a"), nullptr);
  task();
  EXPECT_EQ(runs, 1);
  gate.Open();
  encoder.Stop();
  EXPECT_EQ(runs, 2);
}

TEST(PromptEncoderTest, StopRunsTheTasksThatAreLeft) {
  PromptEncoder encoder(nullptr, nullptr, 100);
  Gate gate;
  for (int i = 0; i < kNumThreads; ++i) encoder.Schedule("busy", [&] { gate.Wait(); });
  gate.WaitForWaiting(kNumThreads);
  // A task may use the encoder while it stops.
  std::atomic<int> encoded{0};
  for (int i = 0; i < 10; ++i) {
    encoder.Schedule("a", [&] {
      if (encoder.Encode(TokenPrompt{{1, 2}}).ok()) ++encoded;
    });
  }
  gate.Open();
  encoder.Stop();
  EXPECT_EQ(encoded, 10);
}

}  // namespace
}  // namespace spotlight::engine
