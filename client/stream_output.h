// Runs one GenerateStream call and prints its messages as they come.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/connection.h"
#include "client/console.h"
#include "client/generate_client.h"

namespace spotlight::client {

enum class StreamFormat { kText, kJsonLines };

struct StreamResult {
  ExitCode exit_code = kExitOk;
  std::string text;  // all that came of sample 0, also when the stream was cut
  // The samples' last messages, as they came; the stream's last one when it ran to its end.
  std::vector<v1::GenerateStreamResponse> finishes;
};

// Text mode writes an echoed prompt, then the answer, and ends the output with a newline; several samples one after
// another, each under a heading and all but the first when it is complete. What ends the stream early, but for a closed
// output, is told in one line on stderr.
StreamResult PrintStream(GenerateClient* client, const v1::GenerateRequest& request, const CallOptions& options,
                         StreamFormat format, const Console& console);

}  // namespace spotlight::client
