// SIGTERM and SIGINT as an event to wait for.
#pragma once

#include "absl/base/thread_annotations.h"
#include "command_line/signal_thread.h"
#include "engine/mutex.h"

namespace spotlight::server {

// Made before any other thread (command_line/signal_thread.h). The first signal is an event; a second one ends the
// process at once, with 128 and its number.
class StopSignal {
 public:
  StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // Returns after a signal (true) or a Wake (false), whichever came first and was not yet returned.
  bool Wait();
  void Wake();  // thread-safe

 private:
  void OnSignal(int number);

  Mutex mutex_;
  CondVar condition_;
  bool signalled_ ABSL_GUARDED_BY(mutex_) = false;
  bool happened_ ABSL_GUARDED_BY(mutex_) = false;  // what Wait has not returned yet
  command_line::SignalThread signals_;             // last: calls OnSignal
};

}  // namespace spotlight::server
