#include "command_line/signal_thread.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace spotlight::command_line {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// What on_signal was called with, and by which thread.
class Calls {
 public:
  void Add(int number) {
    const std::lock_guard<std::mutex> lock(mutex_);
    calls_.emplace_back(number, pthread_self());
    added_.notify_all();
  }
  // The latest, once there are `count`.
  std::pair<int, pthread_t> Await(size_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    added_.wait(lock, [&] { return calls_.size() >= count; });
    EXPECT_EQ(calls_.size(), count);
    return calls_.back();
  }

 private:
  std::mutex mutex_;
  std::condition_variable added_;
  std::vector<std::pair<int, pthread_t>> calls_;
};

std::vector<int> Blocked() {
  sigset_t signals;
  pthread_sigmask(SIG_BLOCK, nullptr, &signals);
  std::vector<int> blocked;
  for (const int number : {SIGHUP, SIGINT, SIGTERM}) {
    if (sigismember(&signals, number) == 1) blocked.push_back(number);
  }
  return blocked;
}

TEST(SignalThreadTest, CallsOnSignalInAThreadOfItsOwn) {
  Calls calls;
  const SignalThread thread({SIGTERM, SIGINT}, [&](int number) { calls.Add(number); });
  size_t count = 0;
  for (const int number : {SIGTERM, SIGINT, SIGTERM}) {
    ASSERT_EQ(kill(getpid(), number), 0);
    const auto [taken, by] = calls.Await(++count);
    EXPECT_EQ(taken, number);
    EXPECT_FALSE(pthread_equal(by, pthread_self()));
  }
}

TEST(SignalThreadTest, ThreadsBlockTheSignalsWhileItLives) {
  ASSERT_THAT(Blocked(), IsEmpty());
  {
    const SignalThread thread({SIGTERM, SIGINT}, [](int) {});
    EXPECT_THAT(Blocked(), ElementsAre(SIGINT, SIGTERM));
    std::thread([] { EXPECT_THAT(Blocked(), ElementsAre(SIGINT, SIGTERM)); }).join();
  }
  EXPECT_THAT(Blocked(), IsEmpty());
}

// As a preloaded library's are.
class EarlyThread {
 public:
  ~EarlyThread() {
    over_ = true;
    thread_.join();
  }
  // A signal of the thread's, as of one that the kernel has chosen for the process's.
  int Send(int number) { return pthread_kill(thread_.native_handle(), number); }

 private:
  std::atomic<bool> over_{false};
  // ThreadSanitizer runs handlers in calls that it knows, as these are; not while a future is awaited.
  std::thread thread_{[this] {
    while (!over_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }};
};

TEST(SignalThreadTest, TakesWhatAThreadFromBeforeItDoesNotBlock) {
  EarlyThread early;
  Calls calls;
  const SignalThread thread({SIGTERM, SIGINT}, [&](int number) { calls.Add(number); });
  size_t count = 0;
  for (int i = 0; i < 100; ++i) {
    for (const int number : {SIGTERM, SIGINT}) {
      ASSERT_EQ(i % 2 == 0 ? early.Send(number) : kill(getpid(), number), 0);
      const auto [taken, by] = calls.Await(++count);
      EXPECT_EQ(taken, number);
      EXPECT_FALSE(pthread_equal(by, pthread_self()));
    }
  }
}

void Ignore(int) {}

TEST(SignalThreadTest, LeavesTheActionsThatItFound) {
  const auto action = [](int number) {
    struct sigaction action = {};
    sigaction(number, nullptr, &action);
    return action.sa_handler;
  };
  const auto before = signal(SIGINT, Ignore);
  const auto ending = action(SIGTERM);
  EarlyThread early;
  {
    Calls outer_calls, calls;
    const SignalThread outer({SIGTERM}, [&](int number) { outer_calls.Add(number); });
    {
      const SignalThread thread({SIGTERM, SIGINT}, [&](int number) { calls.Add(number); });
      early.Send(SIGTERM);
      EXPECT_EQ(calls.Await(1).first, SIGTERM);
    }
    EXPECT_EQ(action(SIGINT), Ignore);
    early.Send(SIGTERM);
    EXPECT_EQ(outer_calls.Await(1).first, SIGTERM);
  }
  EXPECT_EQ(action(SIGTERM), ending);
  signal(SIGINT, before);
}

// As a shell without job control starts what runs in the background.
TEST(SignalThreadTest, TakesAnIgnoredSignalUnlessItIsLeftOut) {
  const auto before = signal(SIGINT, SIG_IGN);
  EXPECT_THAT(NotIgnored({SIGTERM, SIGINT}), ElementsAre(SIGTERM));
  EXPECT_THAT(NotIgnored({SIGINT}), IsEmpty());
  {
    const SignalThread nothing({}, [](int) { FAIL(); });
    EXPECT_THAT(Blocked(), IsEmpty());
    kill(getpid(), SIGINT);
  }
  {
    Calls calls;
    const SignalThread thread({SIGINT}, [&](int number) { calls.Add(number); });
    kill(getpid(), SIGINT);
    EXPECT_EQ(calls.Await(1).first, SIGINT);
  }
  signal(SIGINT, before);
}

}  // namespace
}  // namespace spotlight::command_line
