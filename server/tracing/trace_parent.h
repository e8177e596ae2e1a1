#pragma once

#include "grpcpp/server_context.h"
#include "server/tracing/span.h"

namespace spotlight::server {

// The metadata traceparent and tracestate. Empty where they came more than once or are longer than the W3C's bounds.
TraceParent TraceParentOf(const grpc::CallbackServerContext& context);

}  // namespace spotlight::server
