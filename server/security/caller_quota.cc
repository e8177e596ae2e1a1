#include "server/security/caller_quota.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/admission/retry_delay.h"

namespace spotlight::server {
namespace {

// A request in progress ends at an unknown time; polling faster than this buys nothing.
constexpr absl::Duration kConcurrencyRetry = absl::Seconds(1);

absl::Duration Interval(const CallerLimits& limits) {
  return absl::Minutes(1) / limits.requests_per_minute;
}

}  // namespace

void CallerQuota::SetLimits(const CallerLimits& limits) {
  MutexLock lock(&mutex_);
  limits_ = limits;
}

absl::StatusOr<CallerQuota::Place> CallerQuota::Enter(absl::Duration now) {
  {
    MutexLock lock(&mutex_);
    if (absl::Status status = Take(/*num_held=*/0, /*num_more=*/1, now); !status.ok()) return status;
  }
  return std::make_shared<Holding>(shared_from_this());
}

absl::Status CallerQuota::Take(int32_t num_held, int32_t num_more, absl::Duration now) {
  const int32_t num_requests = num_held + num_more;
  const std::string samples =
      num_requests > 1 ? absl::StrCat(", of which sampling.n asks for ", num_requests) : std::string();
  if (limits_.max_concurrent > 0 && running_ + num_more > limits_.max_concurrent) {
    return engine::WithRetryDelay(
        absl::ResourceExhaustedError(absl::StrCat("caller_concurrency: ", running_ - num_held,
                                                  " requests of this caller are in progress, its limit is ",
                                                  limits_.max_concurrent, samples)),
        kConcurrencyRetry);
  }
  if (limits_.requests_per_minute > 0) {
    const absl::Duration interval = Interval(limits_);
    const absl::Duration earliest = empty_at_ - (limits_.burst - num_more) * interval;
    if (now < earliest) {
      return engine::WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat(
                                        "caller_rate: the limit of this caller is ", limits_.requests_per_minute,
                                        " requests a minute, ", limits_.burst, " at once", samples)),
                                    earliest - now);
    }
    empty_at_ = std::max(now, empty_at_) + num_more * interval;
  }
  running_ += num_more;
  return absl::OkStatus();
}

absl::Status CallerQuota::CheckSamples(int32_t num_samples) const {
  const auto check = [num_samples](int32_t limit, const char* what) {
    return num_samples <= limit
               ? absl::OkStatus()
               : absl::InvalidArgumentError(absl::StrCat("sampling.n: must be at most ", limit, ", the ", what,
                                                         " of this caller, got ", num_samples));
  };
  if (limits_.max_concurrent > 0) {
    if (absl::Status status = check(limits_.max_concurrent, "max_concurrent"); !status.ok()) return status;
  }
  return limits_.requests_per_minute > 0 ? check(limits_.burst, "burst") : absl::OkStatus();
}

absl::Status CallerQuota::Widen(Holding* holding, int32_t num_samples, absl::Duration now) {
  MutexLock lock(&mutex_);
  if (absl::Status status = CheckSamples(num_samples); !status.ok()) return status;
  const int32_t num_more = num_samples - holding->num_requests_;
  if (num_more <= 0) return absl::OkStatus();
  absl::Status status = Take(holding->num_requests_, num_more, now);
  if (status.ok()) {
    holding->num_requests_ = num_samples;
  } else if (limits_.requests_per_minute > 0) {
    empty_at_ -= Interval(limits_);  // Enter's
  }
  return status;
}

void CallerQuota::Leave(int32_t num_requests) {
  MutexLock lock(&mutex_);
  running_ -= num_requests;
}

bool CallerQuota::IsIdle(absl::Duration now) const {
  MutexLock lock(&mutex_);
  return running_ == 0 && empty_at_ <= now;
}

}  // namespace spotlight::server
