// What the server says of the same run: its Prometheus text, read before and after.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spotlight::client::bench {

// Series by name and labels as they stand in the text, e.g. `a_total{reason="x"}`.
using MetricSamples = std::map<std::string, double>;

MetricSamples ParseMetrics(absl::string_view text);

// Reads http://HOST[:PORT][/PATH], with a bound of seconds; PATH is /metrics when it is missing. UNAVAILABLE names the
// URL and the reason.
absl::StatusOr<MetricSamples> FetchMetrics(const std::string& url);

// One histogram's growth between two readings, over all its label sets.
struct HistogramGrowth {
  double count = 0;
  double sum = 0;
  std::map<double, double> cumulative;  // by upper bound; +Inf is there

  double mean() const { return count > 0 ? sum / count : 0; }
  // The upper bound of the bucket that holds the quantile (0 to 1): no more than that is known.
  double UpperBound(double quantile) const;
};

HistogramGrowth GrowthOfHistogram(const MetricSamples& before, const MetricSamples& after, absl::string_view name);

// A counter's growth, over all its label sets.
double GrowthOf(const MetricSamples& before, const MetricSamples& after, absl::string_view name);

}  // namespace spotlight::client::bench
