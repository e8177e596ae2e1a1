#include "server/grpc_status.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/admission/retry_delay.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/utf8.h"

namespace spotlight::server {
namespace {

// A queue slot comes free and a replica comes up within about this time.
constexpr int kRetrySeconds = 1;

// HTTP/2 carries the message in a header, and peers bound those at 8 KB.
constexpr size_t kMaxMessageBytes = 1024;

// The refusals that waiting cures: these queues empty by themselves.
bool IsQueue(absl::string_view subject) {
  return subject == "queue_requests" || subject == "queue_tokens" || subject == "encoding_queue" ||
         subject == "caller_share" || subject == "request_reads";
}

void AddDetails(const absl::Status& status, absl::string_view message, google::rpc::Status* proto) {
  const SubjectAndDescription parts = SplitSubject(message);
  if (status.code() == absl::StatusCode::kInvalidArgument && !parts.subject.empty()) {
    google::rpc::BadRequest bad_request;
    auto* violation = bad_request.add_field_violations();
    violation->set_field(parts.subject.data(), parts.subject.size());
    violation->set_description(parts.description.data(), parts.description.size());
    proto->add_details()->PackFrom(bad_request);
  }
  if (status.code() == absl::StatusCode::kResourceExhausted && !parts.subject.empty()) {
    google::rpc::QuotaFailure quota;
    auto* violation = quota.add_violations();
    violation->set_subject(parts.subject.data(), parts.subject.size());
    violation->set_description(parts.description.data(), parts.description.size());
    proto->add_details()->PackFrom(quota);
  }
  const bool queue_full = status.code() == absl::StatusCode::kResourceExhausted && IsQueue(parts.subject);
  const absl::optional<absl::Duration> delay = engine::RetryDelay(status);
  if (delay.has_value() || queue_full || status.code() == absl::StatusCode::kUnavailable) {
    const absl::Duration wait = delay.value_or(absl::Seconds(kRetrySeconds));
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(wait / absl::Seconds(1));
    retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(wait % absl::Seconds(1) / absl::Nanoseconds(1)));
    proto->add_details()->PackFrom(retry);
  }
}

}  // namespace

SubjectAndDescription SplitSubject(absl::string_view message) {
  const size_t colon = message.find(": ");
  if (colon == absl::string_view::npos || colon == 0) return {absl::string_view(), message};
  const absl::string_view subject = message.substr(0, colon);
  if (!absl::ascii_islower(subject[0])) return {absl::string_view(), message};
  for (const char c : subject) {
    if (!absl::ascii_isalnum(c) && c != '_' && c != '.' && c != '[' && c != ']' && c != '-') {
      return {absl::string_view(), message};
    }
  }
  return {subject, message.substr(colon + 2)};
}

std::string BoundedMessage(const absl::Status& status) {
  const absl::string_view kept = Utf8Prefix(status.message(), kMaxMessageBytes);
  return kept.size() == status.message().size() ? std::string(kept.data(), kept.size()) : absl::StrCat(kept, "...");
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());  // the same numbers by definition
  const std::string message = BoundedMessage(status);
  google::rpc::Status proto;
  AddDetails(status, message, &proto);
  if (proto.details().empty()) return grpc::Status(code, message);
  proto.set_code(code);
  proto.set_message(message);
  return grpc::Status(code, message, proto.SerializeAsString());
}

absl::string_view CodeName(grpc::StatusCode code) {
  static const auto* const names = [] {
    auto* all = new std::string[17];
    for (int i = 0; i <= 16; ++i) all[i] = absl::StatusCodeToString(static_cast<absl::StatusCode>(i));
    return all;
  }();
  return code >= 0 && code <= 16 ? absl::string_view(names[code]) : absl::string_view("UNKNOWN");
}

}  // namespace spotlight::server
