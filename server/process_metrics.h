// The standard process_* families, read from /proc at each scrape (prometheus-cpp has no such collector).
#pragma once

#include <vector>

#include "prometheus/metric_family.h"

namespace spotlight::server {

// Thread-safe: holds nothing.
class ProcessMetrics {
 public:
  // A family whose source cannot be read is left out.
  std::vector<prometheus::MetricFamily> Collect() const;
};

}  // namespace spotlight::server
