// Lines that a log has lost: counted, and told elsewhere when it begins.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/time/time.h"
#include "engine/clock.h"
#include "engine/mutex.h"

namespace spotlight::server {

// Thread-safe.
class DroppedLines {
 public:
  // `on_begin` is told why the first line is lost after a minute without a loss, on the thread that lost it. It must
  // not write to the same log. May be null.
  explicit DroppedLines(std::function<void(const std::string& why)> on_begin = nullptr,
                        const engine::Clock* clock = engine::Clock::Steady())
      : on_begin_(std::move(on_begin)), clock_(clock) {}

  void Add(int64_t num_lines, const std::string& why);
  int64_t count() const { return count_.load(); }  // since the start

 private:
  const std::function<void(const std::string& why)> on_begin_;
  const engine::Clock* const clock_;
  std::atomic<int64_t> count_{0};
  Mutex mutex_;
  absl::Duration latest_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();
};

}  // namespace spotlight::server
