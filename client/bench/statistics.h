// Numbers about numbers, as numpy computes them, so that reports compare with those of other tools.
#pragma once

#include <vector>

namespace spotlight::client::bench {

struct Statistics {
  double mean = 0;
  double median = 0;
  double std = 0;  // of the population
  double min = 0;
  double max = 0;
  std::vector<double> percentiles;  // in the order asked for
};

// Percentiles (0 to 100) are linear between the two nearest values. All 0 for no values.
Statistics Summarize(std::vector<double> values, const std::vector<double>& percentiles);

}  // namespace spotlight::client::bench
