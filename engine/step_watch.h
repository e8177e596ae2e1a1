// Whether the engine thread's steps come on: notices one that hangs.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/mutex.h"

namespace spotlight::engine {

// Time counts between two looks that found the same step, and only so much of it: what passes while the process is
// stopped (SIGSTOP, a debugger, a machine that pauses) is no time of the step. So somebody has to look every second or
// two, as the server does.
class StepWatch {
 public:
  static constexpr absl::Duration kMaxLook = absl::Seconds(2);

  // Infinite: nothing hangs.
  explicit StepWatch(absl::Duration max_step) : max_step_(max_step) {}

  // The engine thread's: a step is under way, and it, or the one before, has come on; none is under way.
  void Mark() { mark_ = ++num_marks_; }
  void MarkIdle() { mark_ = kIdle; }

  // Thread-safe. UNAVAILABLE once a step has taken longer, for good: whoever heard of it has given the engine up.
  absl::Status Look(absl::Duration now) const;

 private:
  static constexpr uint64_t kIdle = 0;

  const absl::Duration max_step_;
  uint64_t num_marks_ = kIdle;
  std::atomic<uint64_t> mark_{kIdle};

  mutable Mutex mutex_;
  mutable uint64_t seen_ ABSL_GUARDED_BY(mutex_) = kIdle;  // at the latest look
  mutable absl::Duration looked_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  mutable absl::Duration waited_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();  // with the mark as it is
  mutable bool hangs_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace spotlight::engine
