#include "server/load_progress_log.h"

#include "absl/strings/str_format.h"

namespace spotlight::server {
namespace {

constexpr absl::Duration kMinInterval = absl::Seconds(2), kMaxInterval = absl::Seconds(30);
constexpr int64_t kMaxLines = 10;

}  // namespace

LoadProgressLog::LoadProgressLog(const engine::Clock* clock)
    : clock_(clock), start_(clock->Now()), last_time_(start_) {}

absl::optional<std::string> LoadProgressLog::Line(int64_t bytes_done, int64_t bytes_total) {
  const absl::Duration now = clock_->Now(), since_last = now - last_time_;
  const bool is_far = kMaxLines * (bytes_done - last_bytes_) >= bytes_total || since_last >= kMaxInterval;
  if (bytes_done >= bytes_total || since_last < kMinInterval || !is_far) return absl::nullopt;
  last_time_ = now;
  last_bytes_ = bytes_done;
  const auto done = static_cast<double>(bytes_done), total = static_cast<double>(bytes_total);
  const double rate = done / absl::ToDoubleSeconds(now - start_);
  return absl::StrFormat("loading: %.1f of %.1f GB (%.0f%%), %.2f GB/s, %.0f s left", done / 1e9, total / 1e9,
                         100 * done / total, rate / 1e9, (total - done) / rate);
}

}  // namespace spotlight::server
