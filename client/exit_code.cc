#include "client/exit_code.h"

namespace spotlight::client {

const char kExitCodesHelp[] =
    "Exit codes\n"
    "  0  done\n"
    "  1  something else went wrong (an internal error, output that cannot be written)\n"
    "  2  wrong usage: an unknown flag, a value out of range, a file that cannot be read\n"
    "  3  refused by the server (bad request, unknown model, queue full, credentials, ...)\n"
    "  4  cancelled: Ctrl-C, abort, or a closed output pipe\n"
    "  5  the server is unreachable, not serving or draining\n"
    "  6  the deadline passed\n";

ExitCode ExitCodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return kExitOk;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
      return kExitRefused;
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kAborted:
      return kExitCancelled;
    case absl::StatusCode::kUnavailable:
      return kExitUnreachable;
    case absl::StatusCode::kDeadlineExceeded:
      return kExitDeadline;
    default:
      return kExitFailed;
  }
}

ExitCode ExitCodeOf(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
    case v1::FINISH_REASON_LENGTH:
      return kExitOk;
    case v1::FINISH_REASON_CANCELLED:
    case v1::FINISH_REASON_ABORTED:
      return kExitCancelled;
    case v1::FINISH_REASON_DEADLINE:
      return kExitDeadline;
    default:
      return kExitFailed;  // a stream that ends without a reason is cut short
  }
}

}  // namespace spotlight::client
