// The span of a finished call: OpenTelemetry's semantic conventions for gRPC servers and for generative models, and
// events where a request went on: queue, prefill, first_token, end.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "server/call_record.h"
#include "server/listen_address.h"
#include "server/tracing/span.h"

namespace spotlight::server {

// `record` ended at `end`, and was served at `address`.
Span CallSpan(const CallRecord& record, absl::Time end, const std::string& model_name, const ListenAddress& address);

}  // namespace spotlight::server
