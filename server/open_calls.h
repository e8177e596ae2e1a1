// How many generation calls are open, so that a drain can wait for the last bytes to leave.
#pragma once

#include <chrono>

#include "engine/mutex.h"

namespace spotlight::server {

// Thread-safe.
class OpenCalls {
 public:
  void Begin() {
    MutexLock lock(&mutex_);
    ++count_;
  }
  void End() {
    MutexLock lock(&mutex_);
    if (--count_ == 0) none_.NotifyAll();
  }
  void WaitUntilNone(std::chrono::steady_clock::time_point deadline) {
    MutexLock lock(&mutex_);
    while (count_ > 0) {
      const auto left = deadline - std::chrono::steady_clock::now();
      if (left <= left.zero()) return;
      none_.WaitFor(&mutex_, left);
    }
  }

 private:
  Mutex mutex_;
  CondVar none_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace spotlight::server
