// Input: the metadata traceparent, tracestate, and any more of traceparent, with a zero byte between two. Accepted is
// what a call's span takes for its parent.
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "server/tracing/trace_parent.h"
#include "server/tracing/tracer.h"
#include "tests/fuzz/target.h"

namespace spotlight::fuzz {
namespace {

// Nobody listens there: what is sampled is queued, and then lost.
server::Tracer* StartTracer() {
  server::TracingOptions options;
  options.endpoint = "http://127.0.0.1:9/v1/traces";
  options.max_queued_spans = 8;
  options.export_interval = absl::Hours(1);
  auto tracer = server::Tracer::Create(options, nullptr);
  Require(tracer.ok(), "there is a tracer");
  return tracer->release();
}

}  // namespace

bool Accepts(absl::string_view input) {
  static server::Tracer& tracer = *StartTracer();
  const std::vector<std::string> values = absl::StrSplit(input, '\0');
  std::multimap<grpc::string_ref, grpc::string_ref> metadata;
  for (size_t i = 0; i < values.size(); ++i) metadata.emplace(i == 1 ? "tracestate" : "traceparent", values[i]);
  server::Span span;
  span.name = "call";
  span.parent = server::ReadTraceParent(metadata);
  Require(span.parent.traceparent.size() <= 256 && span.parent.tracestate.size() <= 512, "metadata is bounded");

  const std::string trace_id = tracer.Record(span);
  Require(trace_id.size() == 32 && trace_id.find_first_not_of("0123456789abcdef") == std::string::npos &&
              trace_id.find_first_not_of('0') != std::string::npos,
          "every span has a trace");
  return span.parent.traceparent.find(trace_id) != std::string::npos;
}

}  // namespace spotlight::fuzz
