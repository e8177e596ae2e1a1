// The google.rpc details of a refused call. They travel inside the absl::Status that GenerateClient returns.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "grpcpp/support/status.h"

namespace spotlight::client {

struct ErrorDetails {
  struct Violation {
    std::string subject;  // BadRequest: the field; QuotaFailure, PreconditionFailure: the subject
    std::string description;
  };
  std::vector<Violation> violations;
  absl::optional<absl::Duration> retry_delay;
};

// Same code and message; the details go along as a payload.
absl::Status FromGrpcStatus(const grpc::Status& status);

// Empty where the server sent none, or something that is not a google.rpc.Status.
ErrorDetails DecodeErrorDetails(const absl::Status& status);

// One line: code, message, what the message does not yet say of the violations, when to try again.
std::string ErrorLine(const absl::Status& status);

}  // namespace spotlight::client
