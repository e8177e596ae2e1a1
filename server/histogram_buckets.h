// Boundaries of histograms that an operator chose in the place of the table's (metric_families.h): what a query says of
// a time is exact only where the time is a boundary.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spotlight::server {

// Upper bounds, without +Inf, by the histogram's whole name.
using HistogramBuckets = std::map<std::string, std::vector<double>>;

// "time_to_first_token_seconds=.1,.5,1;step_seconds=.01,.1": names of the table, "spotlight_" before them or not.
// Empty: none. INVALID_ARGUMENT names the histogram and what is wrong: no histogram of the table, there twice, or
// bounds that are not positive, do not increase, or are more than kMaxBuckets.
absl::StatusOr<HistogramBuckets> ParseHistogramBuckets(absl::string_view text);

// A series each, of every histogram and every label value.
inline constexpr size_t kMaxBuckets = 100;

}  // namespace spotlight::server
