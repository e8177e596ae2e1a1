#include "engine/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace spotlight::engine {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

StopMatcher::Released StopMatcher::Push(absl::string_view text, bool may_stop) {
  Released released;
  const size_t old_size = held_.size();
  held_.append(text.data(), text.size());
  if (may_stop && !text.empty()) {
    size_t match_begin = 0, match_end = std::string::npos;
    for (const std::string& stop : stops_) {
      // Only matches that end in the new text: earlier ones were found, or passed over.
      const size_t from = old_size + 1 > stop.size() ? old_size + 1 - stop.size() : 0;
      const size_t begin = held_.find(stop, from);
      if (begin == std::string::npos) continue;
      const size_t end = begin + stop.size();
      if (end < match_end || (end == match_end && begin < match_begin)) {
        match_begin = begin;
        match_end = end;
      }
    }
    if (match_end != std::string::npos) {
      released.matched = held_.substr(match_begin, match_end - match_begin);
      held_.resize(match_begin);
      released.text = Flush();
      return released;
    }
  }
  const size_t num_released = held_.size() - NumPending();
  released.text = held_.substr(0, num_released);
  held_.erase(0, num_released);
  return released;
}

std::string StopMatcher::Flush() {
  return std::exchange(held_, std::string());
}

size_t StopMatcher::NumPending() const {
  size_t pending = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > pending; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) pending = n;
    }
  }
  return pending;
}

}  // namespace spotlight::engine
