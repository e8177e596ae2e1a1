#include "client/error_details.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace spotlight::client {
namespace {

constexpr char kPayloadUrl[] = "type.googleapis.com/google.rpc.Status";

template <typename Violations>
void AddSubjects(const Violations& violations, ErrorDetails* details) {
  for (const auto& violation : violations)
    details->violations.push_back({violation.subject(), violation.description()});
}

// A message is one line and moves no cursor, whatever the other side sent.
std::string OneLine(absl::string_view text) {
  std::string line(text);
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = ' ';
  }
  return line;
}

}  // namespace

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status converted(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  if (!status.error_details().empty()) converted.SetPayload(kPayloadUrl, absl::Cord(status.error_details()));
  return converted;
}

ErrorDetails DecodeErrorDetails(const absl::Status& status) {
  ErrorDetails details;
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayloadUrl);
  google::rpc::Status decoded;
  if (!payload.has_value() || !decoded.ParseFromString(std::string(*payload))) return details;
  for (const google::protobuf::Any& any : decoded.details()) {
    google::rpc::BadRequest bad_request;
    google::rpc::QuotaFailure quota;
    google::rpc::PreconditionFailure precondition;
    google::rpc::RetryInfo retry;
    if (any.UnpackTo(&bad_request)) {
      for (const auto& violation : bad_request.field_violations()) {
        details.violations.push_back({violation.field(), violation.description()});
      }
    } else if (any.UnpackTo(&quota)) {
      AddSubjects(quota.violations(), &details);
    } else if (any.UnpackTo(&precondition)) {
      AddSubjects(precondition.violations(), &details);
    } else if (any.UnpackTo(&retry)) {
      details.retry_delay =
          absl::Seconds(retry.retry_delay().seconds()) + absl::Nanoseconds(retry.retry_delay().nanos());
    }
  }
  return details;
}

std::string ErrorLine(const absl::Status& status) {
  std::string line = absl::StrCat(absl::StatusCodeToString(status.code()));
  if (!status.message().empty()) absl::StrAppend(&line, ": ", status.message());
  const ErrorDetails details = DecodeErrorDetails(status);
  for (const ErrorDetails::Violation& violation : details.violations) {
    const bool said = absl::StrContains(line, violation.description) && absl::StrContains(line, violation.subject);
    if (said) continue;
    absl::StrAppend(&line, "; ", violation.subject, violation.subject.empty() ? "" : ": ", violation.description);
  }
  if (details.retry_delay.has_value()) {
    absl::StrAppend(&line, " (try again in ", absl::FormatDuration(*details.retry_delay), ")");
  }
  return OneLine(line);
}

}  // namespace spotlight::client
