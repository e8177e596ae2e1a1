#include "client/bench/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

namespace spotlight::client::bench {
namespace {

double Percentile(const std::vector<double>& sorted, double percent) {
  if (sorted.empty()) return 0;
  const double place = percent / 100 * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - static_cast<double>(below));
}

}  // namespace

Statistics Summarize(std::vector<double> values, const std::vector<double>& percentiles) {
  Statistics statistics;
  std::sort(values.begin(), values.end());
  for (const double percent : percentiles) statistics.percentiles.push_back(Percentile(values, percent));
  if (values.empty()) return statistics;
  const double count = static_cast<double>(values.size());
  statistics.mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double squares = 0;
  for (const double value : values) squares += (value - statistics.mean) * (value - statistics.mean);
  statistics.std = std::sqrt(squares / count);
  statistics.median = Percentile(values, 50);
  statistics.min = values.front();
  statistics.max = values.back();
  return statistics;
}

}  // namespace spotlight::client::bench
