#include "server/prometheus_text.h"

#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace spotlight::server {
namespace {

std::string Number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  char buffer[32];
  // The shortest of 0.0005 is 5e-04, which nobody writes in a query.
  const bool is_small_fraction = std::abs(value) >= 1e-4 && std::abs(value) < 1;
  const auto end = is_small_fraction ? std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::fixed)
                                     : std::to_chars(buffer, buffer + sizeof(buffer), value);
  return std::string(buffer, end.ptr);
}

// `{a="x",b="y"}` with `more` at the end; nothing when there are none.
std::string Labels(const prometheus::ClientMetric& metric, const std::string& more) {
  std::string labels;
  for (const auto& label : metric.label) {
    absl::StrAppend(&labels, labels.empty() ? "" : ",", label.name, "=\"",
                    absl::StrReplaceAll(label.value, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}}), "\"");
  }
  if (!more.empty()) absl::StrAppend(&labels, labels.empty() ? "" : ",", more);
  return labels.empty() ? "" : absl::StrCat("{", labels, "}");
}

void AppendHistogram(const std::string& name, const prometheus::ClientMetric& metric, std::string* out) {
  const prometheus::ClientMetric::Histogram& histogram = metric.histogram;
  for (const auto& bucket : histogram.bucket) {
    absl::StrAppend(out, name, "_bucket", Labels(metric, absl::StrCat("le=\"", Number(bucket.upper_bound), "\"")), " ",
                    bucket.cumulative_count, "\n");
  }
  const std::string labels = Labels(metric, "");
  absl::StrAppend(out, name, "_sum", labels, " ", Number(histogram.sample_sum), "\n");
  absl::StrAppend(out, name, "_count", labels, " ", histogram.sample_count, "\n");
}

}  // namespace

std::string PrometheusText(const std::vector<prometheus::MetricFamily>& families) {
  std::string out;
  for (const prometheus::MetricFamily& family : families) {
    const bool is_counter = family.type == prometheus::MetricType::Counter;
    const bool is_histogram = family.type == prometheus::MetricType::Histogram;
    absl::StrAppend(&out, "# HELP ", family.name, " ",
                    absl::StrReplaceAll(family.help, {{"\\", "\\\\"}, {"\n", "\\n"}}), "\n# TYPE ", family.name, " ",
                    is_histogram ? "histogram"
                    : is_counter ? "counter"
                                 : "gauge",
                    "\n");
    for (const prometheus::ClientMetric& metric : family.metric) {
      if (is_histogram) {
        AppendHistogram(family.name, metric, &out);
      } else {
        absl::StrAppend(&out, family.name, Labels(metric, ""), " ",
                        Number(is_counter ? metric.counter.value : metric.gauge.value), "\n");
      }
    }
  }
  return out;
}

}  // namespace spotlight::server
