#include "engine/step_watch.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace spotlight::engine {

absl::Status StepWatch::Look(absl::Duration now) const {
  if (max_step_ == absl::InfiniteDuration()) return absl::OkStatus();
  MutexLock lock(&mutex_);
  const uint64_t mark = mark_;
  // Of two threads the later `now` may get the lock first.
  const absl::Duration since = std::max(absl::ZeroDuration(), now - looked_);
  waited_ = mark == kIdle || mark != seen_ ? absl::ZeroDuration() : waited_ + std::min(since, kMaxLook);
  seen_ = mark;
  looked_ = std::max(looked_, now);
  if (waited_ > max_step_) hangs_ = true;
  if (!hangs_) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("the engine hangs: a step did not end within ", absl::FormatDuration(max_step_)));
}

}  // namespace spotlight::engine
