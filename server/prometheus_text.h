// The text exposition format, version 0.0.4. Numbers are written as short as they can be read back: prometheus-cpp's
// own serializer writes the bound 0.00008 as 8.000000000000001e-05, which no query's le="8e-05" matches.
#pragma once

#include <string>
#include <vector>

#include "prometheus/metric_family.h"

namespace spotlight::server {

// Counters, gauges and histograms.
std::string PrometheusText(const std::vector<prometheus::MetricFamily>& families);

}  // namespace spotlight::server
