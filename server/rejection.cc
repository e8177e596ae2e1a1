#include "server/rejection.h"

#include <algorithm>

#include "server/grpc_status.h"

namespace spotlight::server {
namespace {

constexpr absl::string_view kReasons[] = {
    "queue_requests", "queue_tokens", "encoding_queue", "caller_share", "deadline",    "kv_capacity",       "auth",
    "invalid",        "loading",      "draining",       "unhealthy",    "caller_rate", "caller_concurrency"};

bool IsGeneration(absl::string_view method) {
  return method == "Generate" || method == "GenerateStream";
}

}  // namespace

absl::Span<const absl::string_view> RejectionReasons() {
  return kReasons;
}

absl::string_view RejectionReason(const CallRecord& record, bool draining) {
  if (!IsGeneration(record.method)) return "";
  // An accepted request may still be refused when its prompt has been encoded; one that ran is not "rejected".
  if (record.finish.has_value() &&
      (record.finish->reason != engine::FinishReason::kError || record.finish->usage.completion_tokens > 0)) {
    return "";
  }
  switch (record.status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
      return "invalid";
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return "auth";
    case absl::StatusCode::kUnavailable:
      if (SplitSubject(record.status.message()).subject == "loading") return "loading";
      return draining ? "draining" : "unhealthy";
    case absl::StatusCode::kDeadlineExceeded:
      return "deadline";
    case absl::StatusCode::kResourceExhausted: {
      const absl::string_view subject = SplitSubject(record.status.message()).subject;
      const auto found = std::find(std::begin(kReasons), std::end(kReasons), subject);
      return found != std::end(kReasons) ? *found : absl::string_view("kv_capacity");
    }
    default:
      return "";
  }
}

}  // namespace spotlight::server
