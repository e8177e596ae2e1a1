// One caller's rate and concurrency, in requests; of a request for several samples each sample is one.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/mutex.h"
#include "server/security/token_file.h"

namespace spotlight::server {

// Thread-safe.
class CallerQuota : public std::enable_shared_from_this<CallerQuota> {
 public:
  // What a call holds of the caller's concurrent requests, free again when the last copy is gone. Thread-safe.
  class Holding {
   public:
    explicit Holding(std::shared_ptr<CallerQuota> quota) : quota_(std::move(quota)) {}
    ~Holding() { quota_->Leave(num_requests_); }
    Holding(const Holding&) = delete;
    Holding& operator=(const Holding&) = delete;

    // Once, when the call is known to ask for so many samples: each counts as a request. INVALID_ARGUMENT: more than
    // the limits ever allow; RESOURCE_EXHAUSTED as Enter, and the rate does not count the call.
    absl::Status TakeSamples(int32_t num_samples, absl::Duration now) { return quota_->Widen(this, num_samples, now); }

   private:
    friend class CallerQuota;
    const std::shared_ptr<CallerQuota> quota_;
    int32_t num_requests_ = 1;  // changed under the quota's lock
  };
  using Place = std::shared_ptr<Holding>;

  void SetLimits(const CallerLimits& limits);  // what was used stays counted

  // RESOURCE_EXHAUSTED with a retry delay: "caller_concurrency: ..." or "caller_rate: ...". A refused request is not
  // counted. `now` never goes back.
  absl::StatusOr<Place> Enter(absl::Duration now);

  // Nothing is counted: a new quota would answer the same.
  bool IsIdle(absl::Duration now) const;

 private:
  // Counts `num_more` requests of a call that holds `num_held` already.
  absl::Status Take(int32_t num_held, int32_t num_more, absl::Duration now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckSamples(int32_t num_samples) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Widen(Holding* holding, int32_t num_samples, absl::Duration now);
  void Leave(int32_t num_requests);

  mutable Mutex mutex_;
  CallerLimits limits_ ABSL_GUARDED_BY(mutex_);
  int64_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  // The generic cell rate algorithm, a leaky bucket in one number: when the bucket will have run empty.
  absl::Duration empty_at_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();
};

}  // namespace spotlight::server
