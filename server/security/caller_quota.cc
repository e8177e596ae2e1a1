#include "server/security/caller_quota.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/admission/retry_delay.h"

namespace spotlight::server {
namespace {

// A request in progress ends at an unknown time; polling faster than this buys nothing.
constexpr absl::Duration kConcurrencyRetry = absl::Seconds(1);

}  // namespace

void CallerQuota::SetLimits(const CallerLimits& limits) {
  MutexLock lock(&mutex_);
  limits_ = limits;
}

absl::StatusOr<CallerQuota::Place> CallerQuota::Enter(absl::Duration now) {
  MutexLock lock(&mutex_);
  if (limits_.max_concurrent > 0 && running_ >= limits_.max_concurrent) {
    return engine::WithRetryDelay(
        absl::ResourceExhaustedError(absl::StrCat("caller_concurrency: ", running_,
                                                  " requests of this token are in progress, its "
                                                  "limit is ",
                                                  limits_.max_concurrent)),
        kConcurrencyRetry);
  }
  if (limits_.requests_per_minute > 0) {
    const absl::Duration interval = absl::Minutes(1) / limits_.requests_per_minute;
    const absl::Duration earliest = empty_at_ - (limits_.burst - 1) * interval;
    if (now < earliest) {
      return engine::WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat(
                                        "caller_rate: the limit of this token is ", limits_.requests_per_minute,
                                        " requests a minute, ", limits_.burst, " at once")),
                                    earliest - now);
    }
    empty_at_ = std::max(now, empty_at_) + interval;
  }
  ++running_;
  return Place(static_cast<const void*>(this), [self = shared_from_this()](const void*) {
    MutexLock lock(&self->mutex_);
    --self->running_;
  });
}

}  // namespace spotlight::server
