#include "server/dropped_lines.h"

namespace spotlight::server {
namespace {

constexpr absl::Duration kQuiet = absl::Minutes(1);

}  // namespace

void DroppedLines::Add(int64_t num_lines, const std::string& why) {
  count_ += num_lines;
  {
    MutexLock lock(&mutex_);
    const absl::Duration now = clock_->Now();
    const bool begins = now - latest_ >= kQuiet;
    latest_ = now;
    if (!begins) return;
  }
  if (on_begin_) on_begin_(why);
}

}  // namespace spotlight::server
