#include "server/metric_registry.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "server/metric_families.h"

namespace spotlight::server {
namespace {

const MetricFamily& Row(const char* name, MetricType type) {
  for (const MetricFamily& row : MetricFamilies()) {
    if (row.type == type && std::strcmp(row.name, name) == 0) return row;
  }
  std::fprintf(stderr, "metric %s is not in the table with this type\n", name);
  std::abort();
}

}  // namespace

prometheus::Family<prometheus::Counter>& MetricRegistry::CounterFamily(const char* name) {
  const MetricFamily& row = Row(name, MetricType::kCounter);
  return prometheus::BuildCounter()
      .Name(row.name)
      .Help(row.help)
      .Labels({{"model_name", model_name_}})
      .Register(registry_);
}

prometheus::Family<prometheus::Gauge>& MetricRegistry::GaugeFamily(const char* name) {
  const MetricFamily& row = Row(name, MetricType::kGauge);
  return prometheus::BuildGauge()
      .Name(row.name)
      .Help(row.help)
      .Labels({{"model_name", model_name_}})
      .Register(registry_);
}

prometheus::Histogram& MetricRegistry::AddHistogram(const char* name, const prometheus::Labels& labels) {
  const MetricFamily& row = Row(name, MetricType::kHistogram);
  const auto chosen = buckets_.find(name);
  // Registering a family again gives the one that is there.
  return prometheus::BuildHistogram()
      .Name(row.name)
      .Help(row.help)
      .Labels({{"model_name", model_name_}})
      .Register(registry_)
      .Add(labels, chosen == buckets_.end() ? row.buckets : chosen->second);
}

}  // namespace spotlight::server
