#include "server/histogram_buckets.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "server/metric_families.h"

namespace spotlight::server {
namespace {

constexpr char kPrefix[] = "spotlight_";

absl::Status Invalid(absl::string_view name, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(name, ": ", what));
}

bool IsHistogram(absl::string_view whole_name) {
  for (const MetricFamily& family : MetricFamilies()) {
    if (family.type == MetricType::kHistogram && whole_name == family.name) return true;
  }
  return false;
}

absl::StatusOr<std::vector<double>> ParseBounds(absl::string_view name, absl::string_view text) {
  std::vector<double> bounds;
  for (const absl::string_view word : absl::StrSplit(text, ',')) {
    double bound = 0;
    if (!absl::SimpleAtod(word, &bound) || !std::isfinite(bound) || bound <= 0) {
      return Invalid(name, absl::StrCat("bounds must be positive numbers, got \"", word, "\""));
    }
    if (!bounds.empty() && bound <= bounds.back()) {
      return Invalid(name, absl::StrCat("bounds must increase, got ", word, " after ", bounds.back()));
    }
    bounds.push_back(bound);
  }
  if (bounds.size() > kMaxBuckets) {
    return Invalid(name, absl::StrCat("must have at most ", kMaxBuckets, " bounds, got ", bounds.size()));
  }
  return bounds;
}

}  // namespace

absl::StatusOr<HistogramBuckets> ParseHistogramBuckets(absl::string_view text) {
  HistogramBuckets buckets;
  if (text.empty()) return buckets;
  for (const absl::string_view entry : absl::StrSplit(text, ';')) {
    const size_t equals = entry.find('=');
    if (equals == absl::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat("must be NAME=BOUND,BOUND,...;NAME=..., got \"", entry, "\""));
    }
    const absl::string_view name = absl::StripPrefix(entry.substr(0, equals), kPrefix);
    const std::string whole_name = absl::StrCat(kPrefix, name);
    if (!IsHistogram(whole_name)) return Invalid(name, "is no histogram of this server");
    auto bounds = ParseBounds(name, entry.substr(equals + 1));
    if (!bounds.ok()) return bounds.status();
    if (!buckets.emplace(whole_name, *std::move(bounds)).second) return Invalid(name, "is there twice");
  }
  return buckets;
}

}  // namespace spotlight::server
