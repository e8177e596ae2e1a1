// One finished span, as it goes to the tracer, and what becomes of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/time.h"

namespace spotlight::server {

// W3C trace context, as a caller sent it; empty: none.
struct TraceParent {
  std::string traceparent, tracestate;
};

using AttributeValue = std::variant<std::string, std::vector<std::string>, int64_t, double>;

struct SpanEvent {
  const char* name = "";
  absl::Time time;
};

struct Span {
  std::string name;
  TraceParent parent;
  absl::Time start, end;
  std::vector<std::pair<const char*, AttributeValue>> attributes;
  std::vector<SpanEvent> events;
  bool is_error = false;
  std::string error;  // of is_error: what went wrong
};

enum class SpanOutcome : uint8_t { kExported, kFailed, kDropped };  // kDropped: too many were waiting

// Called on any thread; must not block.
using SpanCounter = std::function<void(SpanOutcome, size_t num_spans)>;

}  // namespace spotlight::server
