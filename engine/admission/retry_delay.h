// When a refused request may be tried again: a value that travels with a status, for whoever answers the client.
#pragma once

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"

namespace spotlight::engine {

// `delay` is kept to within 100 ms and a minute: below, clients would only hammer; above, no forecast holds.
absl::Status WithRetryDelay(absl::Status status, absl::Duration delay);

// Null where nothing is known, or where trying again is no use.
absl::optional<absl::Duration> RetryDelay(const absl::Status& status);

}  // namespace spotlight::engine
