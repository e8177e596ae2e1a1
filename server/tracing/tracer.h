// Spans to an OpenTelemetry collector: sampled, queued and sent in batches by the OpenTelemetry SDK (shim/), off the
// threads that record them.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/tracing/options.h"
#include "server/tracing/parent_limit.h"
#include "server/tracing/span.h"

struct TrTracer;

namespace spotlight::server {

class Collector;

// Thread-safe.
class Tracer {
 public:
  // `options` are enabled. Nothing is sent yet: a collector that is down is no error, here or later. `counter` may be
  // null. INVALID_ARGUMENT: the endpoint.
  static absl::StatusOr<std::unique_ptr<Tracer>> Create(const TracingOptions& options, SpanCounter counter);
  ~Tracer();
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // Never waits. The id of the span's trace, 32 hexadecimal digits, whether or not it is sampled; "" after Shutdown.
  std::string Record(const Span& span);

  // Sends what is queued, and takes no more; false when the time ran out.
  bool Shutdown(absl::Duration timeout);

 private:
  Tracer(std::shared_ptr<Collector> collector, TrTracer* tracer, double max_parents_per_second);

  // The SDK's thread has a share of its own, and may outlive this object in a call that does not return.
  const std::shared_ptr<Collector> collector_;
  TrTracer* const tracer_;
  ParentLimit parent_limit_;
};

}  // namespace spotlight::server
