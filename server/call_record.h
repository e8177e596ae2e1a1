// What is known of a call when it has ended: the source of the request log and of the per-call metrics.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "engine/response_sink.h"
#include "server/tracing/span.h"

namespace spotlight::server {

struct CallRecord {
  const char* method = "";  // "GenerateStream"
  std::string request_id;   // of generation calls whose request could be read
  std::string caller;       // Caller::name
  absl::Status status;
  double seconds = 0;                     // from the call's arrival to its last byte handed to gRPC
  double accepted_seconds = 0;            // from its arrival to the engine, of requests handed to it
  absl::optional<engine::Finish> finish;  // of requests that the engine accepted
  // With traces only: what the call came with, and the trace that it is part of.
  TraceParent trace_parent;
  std::string trace_id;  // 32 hexadecimal digits; known to the observer of the call's end
};

// "stop"; kNone is "none".
const char* FinishReasonName(engine::FinishReason reason);

// Called once per call, on a thread of gRPC or of the service; may call the engine, must not wait for long.
using CallObserver = std::function<void(const CallRecord&)>;

}  // namespace spotlight::server
