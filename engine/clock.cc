#include "engine/clock.h"

#include <chrono>

namespace spotlight::engine {
namespace {

class SteadyClock : public Clock {
 public:
  absl::Duration Now() const override { return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch()); }
};

}  // namespace

const Clock* Clock::Steady() {
  static const SteadyClock* const clock = new SteadyClock;
  return clock;
}

}  // namespace spotlight::engine
