// The way to an OpenTelemetry collector: posts what the exporter has encoded, counts what became of the spans, and
// tells the log when they are lost, at most once a minute.
#pragma once

#include <cstddef>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "engine/clock.h"
#include "engine/mutex.h"
#include "httplib.h"
#include "server/tracing/otlp_endpoint.h"
#include "server/tracing/span.h"

namespace spotlight::server {

// Thread-safe, but for Post: one at a time.
class Collector {
 public:
  // `ca_file` is empty for the system's authorities; `counter` may be null.
  Collector(const OtlpEndpoint& endpoint, const std::string& ca_file, SpanCounter counter,
            const engine::Clock* clock = engine::Clock::Steady());

  // The answer's HTTP status, or 0 where there was none. Blocks, but for no longer than 10 s without a sign of life.
  int Post(const httplib::Headers& headers, const char* body, size_t num_bytes);
  void Count(SpanOutcome outcome, size_t num_spans);

  // From now on nothing is counted or logged.
  void Close();

 private:
  // Whether the log may have another line; `last` is of the latest one.
  bool TakeLine(absl::Duration* last) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const OtlpEndpoint endpoint_;
  const engine::Clock* const clock_;
  httplib::Client client_;

  Mutex mutex_;
  SpanCounter counter_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::string last_error_ ABSL_GUARDED_BY(mutex_);
  size_t num_lost_ ABSL_GUARDED_BY(mutex_) = 0;  // since the latest success
  size_t num_dropped_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Duration last_lost_line_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();
  absl::Duration last_dropped_line_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();
};

}  // namespace spotlight::server
