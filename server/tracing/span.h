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

  // Its caller wants the trace sent. Of one that is well-formed: version, trace, span and flags, "00-<32>-<16>-01".
  bool is_sampled() const { return traceparent.size() > kFlags && (HexDigit(traceparent[kFlags]) & 1) != 0; }
  void ClearSampled() { traceparent[kFlags] = "02468ace"[HexDigit(traceparent[kFlags]) / 2]; }

 private:
  static constexpr size_t kFlags = 54;  // the lower four
  static int HexDigit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 0; }
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

// kDropped: too many were waiting; kLimited: too many callers wanted theirs sent.
enum class SpanOutcome : uint8_t { kExported, kFailed, kDropped, kLimited };

// Called on any thread; must not block.
using SpanCounter = std::function<void(SpanOutcome, size_t num_spans)>;

}  // namespace spotlight::server
