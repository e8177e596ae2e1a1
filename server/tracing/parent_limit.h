// How many traces a second are sent because their callers asked for them.
#pragma once

#include <algorithm>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "engine/clock.h"
#include "engine/mutex.h"

namespace spotlight::server {

// A bucket that holds a second's worth. Thread-safe.
class ParentLimit {
 public:
  explicit ParentLimit(double per_second, const engine::Clock* clock = engine::Clock::Steady())
      : per_second_(per_second), clock_(clock), left_(std::max(per_second, 1.0)), filled_(clock->Now()) {}

  bool Allow() {
    if (per_second_ <= 0) return false;
    MutexLock lock(&mutex_);
    const absl::Duration now = clock_->Now();
    left_ = std::min(std::max(per_second_, 1.0), left_ + per_second_ * absl::ToDoubleSeconds(now - filled_));
    filled_ = now;
    if (left_ < 1) return false;
    left_ -= 1;
    return true;
  }

 private:
  const double per_second_;
  const engine::Clock* const clock_;
  Mutex mutex_;
  double left_ ABSL_GUARDED_BY(mutex_);
  absl::Duration filled_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spotlight::server
