// absl::Status to grpc::Status, in one place. The reply carries a serialized google.rpc.Status whose details say what a
// client can act on:
//   INVALID_ARGUMENT    BadRequest: the field, which the message begins with ("stopping.max_tokens: must be ...")
//   RESOURCE_EXHAUSTED  QuotaFailure: the resource, which the message begins with ("queue_tokens: ..."); RetryInfo
//                       only where waiting helps: a full queue empties, a prompt too long for the cache stays so
//   UNAVAILABLE         RetryInfo
// RetryInfo has the delay that came with the status (engine/admission/retry_delay.h), else a second.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "grpcpp/support/status.h"

namespace spotlight::server {

// The message as clients and logs get it: it may echo what a client sent, so its length is bounded (about 1 KiB).
std::string BoundedMessage(const absl::Status& status);

grpc::Status ToGrpcStatus(const absl::Status& status);

// "INVALID_ARGUMENT": the name of a code as gRPC's documents spell it.
absl::string_view CodeName(grpc::StatusCode code);

// A message that begins with a path such as "sampling.logit_bias[7]: ", split there. The path is empty where there is
// none. Views into `message`.
struct SubjectAndDescription {
  absl::string_view subject;
  absl::string_view description;
};
SubjectAndDescription SplitSubject(absl::string_view message);

}  // namespace spotlight::server
