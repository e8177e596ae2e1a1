// Prometheus handles by the names of the table in metric_families.h.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/histogram_buckets.h"

namespace spotlight::server {

// Thread-safe. A name that the table lacks, or has with another type, aborts: that is a broken build, and every name is
// asked for at construction.
class MetricRegistry {
 public:
  // `buckets` go before the table's.
  MetricRegistry(std::string model_name, HistogramBuckets buckets)
      : model_name_(std::move(model_name)), buckets_(std::move(buckets)) {}

  prometheus::Family<prometheus::Counter>& CounterFamily(const char* name);
  prometheus::Family<prometheus::Gauge>& GaugeFamily(const char* name);
  prometheus::Counter& AddCounter(const char* name) { return CounterFamily(name).Add({}); }
  prometheus::Gauge& AddGauge(const char* name) { return GaugeFamily(name).Add({}); }
  prometheus::Histogram& AddHistogram(const char* name, const prometheus::Labels& labels = {});

  std::vector<prometheus::MetricFamily> Collect() const { return registry_.Collect(); }

 private:
  const std::string model_name_;
  const HistogramBuckets buckets_;
  prometheus::Registry registry_;
};

}  // namespace spotlight::server
