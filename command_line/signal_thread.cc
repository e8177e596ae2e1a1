#include "command_line/signal_thread.h"

#include <pthread.h>

#include <utility>

namespace spotlight::command_line {

std::vector<int> NotIgnored(const std::vector<int>& numbers) {
  std::vector<int> left;
  for (const int number : numbers) {
    struct sigaction action = {};
    if (sigaction(number, nullptr, &action) == 0 && action.sa_handler != SIG_IGN) left.push_back(number);
  }
  return left;
}

SignalThread::SignalThread(const std::vector<int>& numbers, std::function<void(int number)> on_signal)
    : numbers_(numbers), on_signal_(std::move(on_signal)) {
  sigemptyset(&signals_);
  for (const int number : numbers_) sigaddset(&signals_, number);
  pthread_sigmask(SIG_BLOCK, &signals_, &blocked_before_);
  if (numbers_.empty()) return;
  thread_ = std::thread([this] {
    for (int number = 0; sigwait(&signals_, &number) == 0 && !stopping_;) on_signal_(number);
  });
}

SignalThread::~SignalThread() {
  if (thread_.joinable()) {
    stopping_ = true;
    pthread_kill(thread_.native_handle(), numbers_.front());
    thread_.join();
  }
  pthread_sigmask(SIG_SETMASK, &blocked_before_, nullptr);
}

}  // namespace spotlight::command_line
