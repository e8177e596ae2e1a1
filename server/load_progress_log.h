// What the log tells of a model while it is being loaded.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "engine/clock.h"

namespace spotlight::server {

// Lines are at least 2 s and a tenth of all bytes apart, or, where that takes longer, 30 s: a load of a second or two
// has none, one of minutes ten, and one that a slow volume holds up still shows that it goes on. One thread at a time.
class LoadProgressLog {
 public:
  // Loading starts now. `clock` outlives this.
  explicit LoadProgressLog(const engine::Clock* clock);

  // The line that is due now that so many bytes are there, if one is. None is at the end: the server says that it is
  // ready.
  absl::optional<std::string> Line(int64_t bytes_done, int64_t bytes_total);

 private:
  const engine::Clock* const clock_;
  const absl::Duration start_;
  absl::Duration last_time_;
  int64_t last_bytes_ = 0;
};

}  // namespace spotlight::server
