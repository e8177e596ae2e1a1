#include "server/tracing/trace_parent.h"

#include <cstddef>

namespace spotlight::server {
namespace {

// Of later versions as well; version 0 has 55 bytes.
constexpr size_t kMaxTraceparentBytes = 256;
constexpr size_t kMaxTracestateBytes = 512;

std::string OnlyValue(const grpc::CallbackServerContext& context, const char* name, size_t max_bytes) {
  const auto values = context.client_metadata().equal_range(name);
  if (values.first == values.second || std::next(values.first) != values.second) return "";
  const grpc::string_ref value = values.first->second;
  return value.size() > max_bytes ? "" : std::string(value.data(), value.size());
}

}  // namespace

TraceParent TraceParentOf(const grpc::CallbackServerContext& context) {
  TraceParent parent;
  parent.traceparent = OnlyValue(context, "traceparent", kMaxTraceparentBytes);
  if (!parent.traceparent.empty()) parent.tracestate = OnlyValue(context, "tracestate", kMaxTracestateBytes);
  return parent;
}

}  // namespace spotlight::server
