// The program's exit codes: scripts tell a refusal from a server that is not there.
#pragma once

#include "absl/status/status.h"
#include "proto/spotlight/v1/generation.pb.h"

namespace spotlight::client {

enum ExitCode : int {
  kExitOk = 0,
  kExitFailed = 1,
  kExitUsage = 2,
  kExitRefused = 3,
  kExitCancelled = 4,
  kExitUnreachable = 5,
  kExitDeadline = 6,
};

// For --help.
extern const char kExitCodesHelp[];

ExitCode ExitCodeOf(const absl::Status& status);

// Of a stream that ended with status OK.
ExitCode ExitCodeOf(v1::FinishReason reason);

}  // namespace spotlight::client
