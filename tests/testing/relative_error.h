// ||value - reference|| / ||reference||.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace spotlight::testing {

// Of one length.
inline double RelativeError(const std::vector<float>& value, const std::vector<float>& reference) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < value.size(); ++i) {
    error += std::pow(double{value[i]} - reference[i], 2);
    norm += double{reference[i]} * reference[i];
  }
  return std::sqrt(error / norm);
}

}  // namespace spotlight::testing
