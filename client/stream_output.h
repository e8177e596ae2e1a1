// Runs one GenerateStream call and prints its messages as they come.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "client/connection.h"
#include "client/console.h"
#include "client/generate_client.h"

namespace spotlight::client {

enum class StreamFormat { kText, kJsonLines };

struct StreamResult {
  ExitCode exit_code = kExitOk;
  std::string text;                 // all that came, also when the stream was cut
  v1::GenerateStreamResponse last;  // has a finish_reason when the stream ran to its end
};

// Text mode ends the output with a newline. What ends the stream early, but for a closed output, is told in one line on
// stderr.
StreamResult PrintStream(GenerateClient* client, const v1::GenerateRequest& request, const CallOptions& options,
                         StreamFormat format, const Console& console);

}  // namespace spotlight::client
