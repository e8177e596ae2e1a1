// What an operator decides about traces.
#pragma once

#include <cstddef>
#include <string>

#include "absl/time/time.h"

namespace spotlight::server {

struct TracingOptions {
  std::string endpoint;     // URL that spans are posted to, "http://collector:4318/v1/traces"; empty: no traces
  double sample_ratio = 1;  // of the traces that begin here, 0 to 1; a caller's own decision goes before it
  // That many a second of those whose callers want them sent; of more nothing is.
  double max_parents_per_second = 100;
  std::string ca_file;  // PEM: who signed an https endpoint's certificate; empty: the system's authorities
  size_t max_queued_spans = 2048;
  absl::Duration export_interval;  // zero: the OpenTelemetry SDK's own, OTEL_BSP_SCHEDULE_DELAY, else 5 s

  bool enabled() const { return !endpoint.empty(); }
};

}  // namespace spotlight::server
