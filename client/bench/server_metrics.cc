#include "client/bench/server_metrics.h"

#include <chrono>
#include <cmath>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "httplib.h"

namespace spotlight::client::bench {
namespace {

constexpr std::chrono::seconds kTimeout(5);

std::string ToString(absl::string_view text) {
  return std::string(text.data(), text.size());
}

absl::string_view NameOf(absl::string_view series) {
  return series.substr(0, series.find('{'));
}

double ValueAt(const MetricSamples& samples, const std::string& series) {
  const auto found = samples.find(series);
  return found == samples.end() ? 0 : found->second;
}

// The bucket's `le`; NaN where there is none.
double UpperBoundOf(absl::string_view series) {
  const size_t begin = series.find("le=\"");
  double bound = std::numeric_limits<double>::quiet_NaN();
  if (begin == absl::string_view::npos) return bound;
  absl::string_view text = series.substr(begin + 4);
  text = text.substr(0, text.find('"'));
  if (!absl::SimpleAtod(text, &bound)) return std::numeric_limits<double>::quiet_NaN();
  return bound;
}

}  // namespace

MetricSamples ParseMetrics(absl::string_view text) {
  MetricSamples samples;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (absl::StartsWith(line, "#")) continue;
    const size_t space = line.rfind(' ');
    double value = 0;
    if (space == absl::string_view::npos || !absl::SimpleAtod(line.substr(space + 1), &value)) continue;
    samples[ToString(line.substr(0, space))] = value;
  }
  return samples;
}

absl::StatusOr<MetricSamples> FetchMetrics(const std::string& url) {
  absl::string_view rest = url;
  if (!absl::ConsumePrefix(&rest, "http://") || rest.empty() || rest[0] == '/') {
    return absl::InvalidArgumentError(absl::StrCat("takes http://HOST[:PORT][/PATH], got '", url, "'"));
  }
  const size_t slash = rest.find('/');
  const std::string host = absl::StrCat("http://", rest.substr(0, slash));
  const std::string path = slash == absl::string_view::npos ? "/metrics" : ToString(rest.substr(slash));
  httplib::Client client(host);
  client.set_connection_timeout(kTimeout);
  client.set_read_timeout(kTimeout);
  const httplib::Result result = client.Get(path.c_str());
  if (!result) {
    return absl::UnavailableError(absl::StrCat("cannot read ", url, ": ", httplib::to_string(result.error())));
  }
  if (result->status != 200) {
    return absl::UnavailableError(absl::StrCat("cannot read ", url, ": HTTP status ", result->status));
  }
  return ParseMetrics(result->body);
}

double HistogramGrowth::UpperBound(double quantile) const {
  for (const auto& bucket : cumulative) {
    if (count > 0 && bucket.second >= quantile * count) return bucket.first;
  }
  return 0;
}

HistogramGrowth GrowthOfHistogram(const MetricSamples& before, const MetricSamples& after, absl::string_view name) {
  HistogramGrowth growth;
  growth.count = GrowthOf(before, after, absl::StrCat(name, "_count"));
  growth.sum = GrowthOf(before, after, absl::StrCat(name, "_sum"));
  const std::string bucket_name = absl::StrCat(name, "_bucket");
  for (const auto& sample : after) {
    if (NameOf(sample.first) != bucket_name) continue;
    const double bound = UpperBoundOf(sample.first);
    if (!std::isnan(bound)) growth.cumulative[bound] += sample.second - ValueAt(before, sample.first);
  }
  return growth;
}

double GrowthOf(const MetricSamples& before, const MetricSamples& after, absl::string_view name) {
  double growth = 0;
  for (const auto& sample : after) {
    if (NameOf(sample.first) == name) growth += sample.second - ValueAt(before, sample.first);
  }
  return growth;
}

}  // namespace spotlight::client::bench
