#include "server/rejection.h"

#include <algorithm>

#include "engine/admission/kv_capacity.h"
#include "server/grpc_status.h"

namespace spotlight::server {
namespace {

constexpr absl::string_view kReasons[] = {"request_reads", "queue_requests",     "queue_tokens", "encoding_queue",
                                          "caller_share",  "deadline",           "kv_capacity",  "auth",
                                          "caller_rate",   "caller_concurrency", "invalid",      "loading",
                                          "draining",      "unhealthy",          "other"};

bool IsGeneration(absl::string_view method) {
  return method == "Generate" || method == "GenerateStream";
}

// Of whoever calls, whatever the method.
bool IsAboutTheCaller(absl::string_view reason) {
  return reason == "auth" || reason == "caller_rate" || reason == "caller_concurrency";
}

absl::string_view FullResource(absl::string_view subject) {
  if (subject == "unread_bytes" || subject == "answer_bytes") return "";  // an answer that was too much
  if (subject == "request_bytes") subject = "request_reads";
  const auto found = std::find(std::begin(kReasons), std::end(kReasons), subject);
  return found != std::end(kReasons) ? *found : absl::string_view("other");
}

absl::string_view ReasonOf(const absl::Status& status, bool draining) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return engine::IsOverKvCapacity(status) ? "kv_capacity" : "invalid";
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
      return "invalid";
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return "auth";
    case absl::StatusCode::kUnavailable:
      if (SplitSubject(status.message()).subject == "loading") return "loading";
      return draining ? "draining" : "unhealthy";
    case absl::StatusCode::kDeadlineExceeded:
      return SplitSubject(status.message()).subject == "request_reads" ? "request_reads" : "deadline";
    case absl::StatusCode::kResourceExhausted:
      return FullResource(SplitSubject(status.message()).subject);
    default:
      return "";
  }
}

}  // namespace

absl::Span<const absl::string_view> RejectionReasons() {
  return kReasons;
}

absl::string_view RejectionReason(const CallRecord& record, bool draining) {
  const absl::string_view reason = ReasonOf(record.status, draining);
  if (!IsGeneration(record.method)) return IsAboutTheCaller(reason) ? reason : "";
  // An accepted request may still be refused when its prompt has been encoded; one that ran is not "rejected".
  if (record.finish.has_value() &&
      (record.finish->reason != engine::FinishReason::kError || record.finish->usage.completion_tokens > 0)) {
    return "";
  }
  return reason;
}

}  // namespace spotlight::server
