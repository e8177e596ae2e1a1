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
// other thread: one that does not block them has their default action. A thread of its own waits for them and calls
// `on_signal`, which need not be async-signal-safe. No handler runs on any thread: LibTorch's sgemm for AVX-512
// (oneDNN) points the stack register into a workspace on the heap, and what the kernel saves for a handler, 3 KB and
// more, would be written over the heap in front of it. A stack for handlers (sigaltstack) protects only the thread that
// has set it.
//
// Destroyed by the thread that made it, which then blocks what it did before.
class SignalThread {
 public:
  SignalThread(const std::vector<int>& numbers, std::function<void(int number)> on_signal);
  ~SignalThread();
  SignalThread(const SignalThread&) = delete;
  SignalThread& operator=(const SignalThread&) = delete;

 private:
  const std::vector<int> numbers_;
  const std::function<void(int)> on_signal_;
  sigset_t signals_, blocked_before_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace spotlight::command_line
