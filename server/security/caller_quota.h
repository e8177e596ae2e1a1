// One caller's rate and concurrency.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/mutex.h"
#include "server/security/token_file.h"

namespace spotlight::server {

// Thread-safe.
class CallerQuota : public std::enable_shared_from_this<CallerQuota> {
 public:
  // A place among the caller's concurrent requests, free again when the last copy is gone.
  using Place = std::shared_ptr<const void>;

  void SetLimits(const CallerLimits& limits);  // what was used stays counted

  // RESOURCE_EXHAUSTED with a retry delay: "caller_concurrency: ..." or "caller_rate: ...". A refused request is not
  // counted. `now` never goes back.
  absl::StatusOr<Place> Enter(absl::Duration now);

 private:
  Mutex mutex_;
  CallerLimits limits_ ABSL_GUARDED_BY(mutex_);
  int32_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  // The generic cell rate algorithm, a leaky bucket in one number: when the bucket will have run empty.
  absl::Duration empty_at_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();
};

}  // namespace spotlight::server
