#include "command_line/signal_thread.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <future>
#include <utility>

namespace spotlight::command_line {
namespace {

// The thread that waits for a signal, by the signal's number; 0: none. By the kernel's id: a handler may still run
// when that thread has ended, and pthread_kill may not be called for it then.
std::array<std::atomic<pid_t>, NSIG> takers;
static_assert(std::atomic<pid_t>::is_always_lock_free, "a handler may not lock");

void PassOn(int number) {
  const int error = errno;
  syscall(SYS_tgkill, getpid(), takers[number].load(), number);
  errno = error;
}

}  // namespace

std::vector<int> NotIgnored(const std::vector<int>& numbers) {
  std::vector<int> left;
  for (const int number : numbers) {
    struct sigaction action = {};
    if (sigaction(number, nullptr, &action) == 0 && action.sa_handler != SIG_IGN) left.push_back(number);
  }
  return left;
}

SignalThread::SignalThread(const std::vector<int>& numbers, std::function<void(int number)> on_signal)
    : numbers_(numbers), on_signal_(std::move(on_signal)), before_(numbers.size()) {
  sigemptyset(&signals_);
  for (const int number : numbers_) sigaddset(&signals_, number);
  pthread_sigmask(SIG_BLOCK, &signals_, &blocked_before_);
  if (numbers_.empty()) return;
  std::promise<pid_t> id;
  std::future<pid_t> its_id = id.get_future();
  thread_ = std::thread([this, id = std::move(id)]() mutable {
    id.set_value(gettid());
    for (int number = 0; sigwait(&signals_, &number) == 0 && !stopping_;) on_signal_(number);
  });
  const pid_t taker = its_id.get();
  struct sigaction pass_on = {};
  pass_on.sa_handler = PassOn;
  pass_on.sa_mask = signals_;
  // Such a thread's own calls go on, and its stack may be a small one.
  pass_on.sa_flags = SA_RESTART | SA_ONSTACK;
  for (size_t i = 0; i < numbers_.size(); ++i) {
    before_[i].taker = takers[numbers_[i]].exchange(taker);
    sigaction(numbers_[i], &pass_on, &before_[i].action);
  }
}

SignalThread::~SignalThread() {
  if (thread_.joinable()) {
    for (size_t i = 0; i < numbers_.size(); ++i) {
      sigaction(numbers_[i], &before_[i].action, nullptr);
      takers[numbers_[i]] = before_[i].taker;
    }
    stopping_ = true;
    pthread_kill(thread_.native_handle(), numbers_.front());
    thread_.join();
  }
  pthread_sigmask(SIG_SETMASK, &blocked_before_, nullptr);
}

}  // namespace spotlight::command_line
