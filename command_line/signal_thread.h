// Signals as calls in a thread of their own.
#pragma once

#include <signal.h>

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace spotlight::command_line {

// Those of `numbers` that the parent did not have us ignore (nohup, a shell's background job).
std::vector<int> NotIgnored(const std::vector<int>& numbers);

// Blocks the signals `numbers` in this thread and in those that are started while it lives, so make one before any
// other thread. A thread of its own waits for them and calls `on_signal`, which need not be async-signal-safe. No
// handler runs on a thread that blocks them: LibTorch's sgemm for AVX-512 (oneDNN) points the stack register into a
// workspace on the heap, and what the kernel saves for a handler, 3 KB and more, would be written over the heap in
// front of it. A stack for handlers (sigaltstack) protects only the thread that has set it.
// A preloaded library (a profiler, compute-sanitizer) may have threads from before main, which do not block them: there
// a handler passes the signal on to the thread that waits, for the default action would end the process.
//
// Destroyed by the thread that made it, which then blocks what it did before; the signals' actions are what they were.
// Of two that live at a time the later one is destroyed first.
class SignalThread {
 public:
  SignalThread(const std::vector<int>& numbers, std::function<void(int number)> on_signal);
  ~SignalThread();
  SignalThread(const SignalThread&) = delete;
  SignalThread& operator=(const SignalThread&) = delete;

 private:
  // A signal's action and whom it was passed on to, before this.
  struct Before {
    struct sigaction action = {};
    pid_t taker = 0;
  };

  const std::vector<int> numbers_;
  const std::function<void(int)> on_signal_;
  sigset_t signals_, blocked_before_;
  std::vector<Before> before_;  // by place in numbers_
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace spotlight::command_line
