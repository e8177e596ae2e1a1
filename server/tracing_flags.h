// The flags about traces, and the environment that OpenTelemetry gives their names to.
#pragma once

#include "absl/status/status.h"
#include "server/tracing/options.h"

namespace spotlight::server {

// INVALID_ARGUMENT names the flag or the variable. Of one who read the process's flags; not thread-safe.
absl::Status ReadTracingFlags(TracingOptions* options);

}  // namespace spotlight::server
