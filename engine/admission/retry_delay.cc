#include "engine/admission/retry_delay.h"

#include <algorithm>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace spotlight::engine {
namespace {

constexpr char kPayload[] = "spotlight/retry_delay_ms";
constexpr absl::Duration kShortest = absl::Milliseconds(100);
constexpr absl::Duration kLongest = absl::Minutes(1);

}  // namespace

absl::Status WithRetryDelay(absl::Status status, absl::Duration delay) {
  const absl::Duration kept = std::clamp(delay, kShortest, kLongest);
  status.SetPayload(kPayload, absl::Cord(absl::StrCat(absl::ToInt64Milliseconds(kept))));
  return status;
}

absl::optional<absl::Duration> RetryDelay(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayload);
  int64_t delay_ms = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &delay_ms)) return absl::nullopt;
  return absl::Milliseconds(delay_ms);
}

}  // namespace spotlight::engine
