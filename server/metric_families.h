// Every Prometheus family that the server exports, in one table: what dashboards, rules and tests may rely on.
#pragma once

#include <vector>

#include "absl/types/span.h"

namespace spotlight::server {

enum class MetricType { kCounter, kGauge, kHistogram };

struct MetricFamily {
  const char* name;  // whole, as exported
  MetricType type;
  const char* help;
  std::vector<const char*> labels;  // besides model_name
  std::vector<double> buckets;      // of a histogram: upper bounds, without +Inf
};

absl::Span<const MetricFamily> MetricFamilies();

}  // namespace spotlight::server
