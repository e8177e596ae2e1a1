#include "server/tracing/trace_parent.h"

#include <cstddef>
#include <iterator>
#include <string>

namespace spotlight::server {
namespace {

// Of later versions as well; version 0 has 55 bytes.
constexpr size_t kMaxTraceparentBytes = 256;
constexpr size_t kMaxTracestateBytes = 512;

using Metadata = std::multimap<grpc::string_ref, grpc::string_ref>;

std::string OnlyValue(const Metadata& metadata, const char* name, size_t max_bytes) {
  const auto values = metadata.equal_range(name);
  if (values.first == values.second || std::next(values.first) != values.second) return "";
  const grpc::string_ref value = values.first->second;
  return value.size() > max_bytes ? "" : std::string(value.data(), value.size());
}

// Flags in lower case and in their place: what reads them later looks nowhere else.
bool HasFlags(const std::string& traceparent) {
  constexpr char kHex[] = "0123456789abcdef";
  return traceparent.size() >= 55 && traceparent[52] == '-' && traceparent.find_first_not_of(kHex, 53) >= 55 &&
         (traceparent.size() == 55 || traceparent[55] == '-');
}

}  // namespace

TraceParent ReadTraceParent(const Metadata& metadata) {
  TraceParent parent;
  parent.traceparent = OnlyValue(metadata, "traceparent", kMaxTraceparentBytes);
  if (!HasFlags(parent.traceparent)) parent.traceparent.clear();
  if (!parent.traceparent.empty()) parent.tracestate = OnlyValue(metadata, "tracestate", kMaxTracestateBytes);
  return parent;
}

TraceParent TraceParentOf(const grpc::CallbackServerContext& context) {
  return ReadTraceParent(context.client_metadata());
}

}  // namespace spotlight::server
