// Carries Ctrl-C from the thread that receives it to whatever the program is doing: a running call is cancelled, else a
// read from the terminal ends.
#pragma once

#include <mutex>

#include "client/cancellation.h"

namespace spotlight::client {

// Thread-safe. No method is for a signal handler: command_line/signal_thread.h calls Notify.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // False when the last interruption still waits for its effect: the user has run out of patience.
  bool Notify();

  // Readable once an interruption found no call to cancel. Stays so.
  int wake_fd() const { return wake_fd_; }

  // While in scope, Notify cancels `cancellation`. One at a time.
  class Scope {
   public:
    Scope(Interrupts* interrupts, Cancellation* cancellation);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Interrupts* interrupts_;
  };

 private:
  const int wake_fd_;
  std::mutex mutex_;
  bool woken_ = false;
  Cancellation* cancellation_ = nullptr;
};

}  // namespace spotlight::client
