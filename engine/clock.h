// Monotonic time, injected so that tests decide what time it is.
#pragma once

#include "absl/time/time.h"

namespace spotlight::engine {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Since an arbitrary origin; never goes back.
  virtual absl::Duration Now() const = 0;

  // std::chrono::steady_clock. Never destroyed.
  static const Clock* Steady();
};

}  // namespace spotlight::engine
