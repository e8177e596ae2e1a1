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

absl::Status Schedule(PromptEncoder* encoder, const std::string& id, std::function<void()> task) {
  return encoder->Schedule({id, "caller"}, TextPrompt{std::string(20000, 'x')}, std::move(task));
}

TEST(PromptEncoderTest, ATaskThatHasNotBegunCanBeWithdrawn) {
  PromptEncoder encoder(nullptr, nullptr, 100);
  Gate gate;
  for (int i = 0; i < kNumThreads; ++i) ASSERT_TRUE(Schedule(&encoder, "busy", [&] { gate.Wait(); }).ok());
  gate.WaitForWaiting(kNumThreads);
  std::atomic<int> runs{0};
  ASSERT_TRUE(Schedule(&encoder, "a", [&] { ++runs; }).ok());
  ASSERT_TRUE(Schedule(&encoder, "b", [&] { ++runs; }).ok());
  EXPECT_EQ(encoder.Withdraw({"busy", "caller"}), nullptr);
  const auto task = encoder.Withdraw({"a", "caller"});
  ASSERT_NE(task, nullptr);
  EXPECT_EQ(encoder.Withdraw({"a", "caller"}), nullptr);
  task();
  EXPECT_EQ(runs, 1);
  gate.Open();
  encoder.Stop();
  EXPECT_EQ(runs, 2);
}

TEST(PromptEncoderTest, StopRunsTheTasksThatAreLeft) {
  PromptEncoder encoder(nullptr, nullptr, 100);
  Gate gate;
  for (int i = 0; i < kNumThreads; ++i) ASSERT_TRUE(Schedule(&encoder, "busy", [&] { gate.Wait(); }).ok());
  gate.WaitForWaiting(kNumThreads);
  // A task may use the encoder while it stops.
  std::atomic<int> encoded{0};
  for (int i = 0; i < 10; ++i) {
    const auto encode = [&] {
      if (encoder.Encode(TokenPrompt{{1, 2}}).ok()) ++encoded;
    };
    ASSERT_TRUE(Schedule(&encoder, "a", encode).ok());
  }
  gate.Open();
  encoder.Stop();
  EXPECT_EQ(encoded, 10);
}

TEST(PromptEncoderTest, ChatsThatWaitAreBoundedByTheirBytes) {
  PromptEncoder encoder(nullptr, nullptr, 100, WorkBounds{100, 50000});
  Gate gate;
  for (int i = 0; i < kNumThreads; ++i) ASSERT_TRUE(Schedule(&encoder, "busy", [&] { gate.Wait(); }).ok());
  gate.WaitForWaiting(kNumThreads);
  const ChatPrompt chat{{{"user", std::string(15000, 'x')}, {"assistant", std::string(15000, 'y')}}};
  EXPECT_TRUE(encoder.Schedule({"a", "one"}, chat, [] {}).ok());
  EXPECT_EQ(encoder.Schedule({"b", "other"}, chat, [] {}).code(), absl::StatusCode::kResourceExhausted);
  gate.Open();
}

}  // namespace
}  // namespace spotlight::engine
