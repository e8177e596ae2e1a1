#pragma once

#include <map>

#include "grpcpp/server_context.h"
#include "grpcpp/support/string_ref.h"
#include "server/tracing/span.h"

namespace spotlight::server {

// The metadata traceparent and tracestate. Empty where they came more than once or are longer than the W3C's bounds.
TraceParent ReadTraceParent(const std::multimap<grpc::string_ref, grpc::string_ref>& metadata);
TraceParent TraceParentOf(const grpc::CallbackServerContext& context);

}  // namespace spotlight::server
