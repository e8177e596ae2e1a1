// SIGINT, SIGTERM and SIGHUP as calls of Interrupts::Notify.
#pragma once

#include <thread>

#include "client/interrupts.h"

namespace spotlight::client {

// Blocks the signals in this thread and in those it starts later, so make one before any other thread, and reads them
// in a thread of its own: what a signal does need not be async-signal-safe. A signal ignored by the parent (nohup, a
// shell's background job) stays ignored. When Interrupts can do no more, ends the process with `impatient_exit_code`.
class SignalWatch {
 public:
  SignalWatch(Interrupts* interrupts, int impatient_exit_code);  // `interrupts` is not owned
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

 private:
  int signal_fd_;
  int stop_fd_;
  std::thread thread_;
};

}  // namespace spotlight::client
