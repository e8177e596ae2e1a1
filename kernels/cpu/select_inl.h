// Counting and selecting scores. Included once per instruction set, after its simd header.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace spotlight::kernels::cpu {
namespace {

int64_t CountAtLeast(const int16_t* scores, int64_t count, int16_t threshold) {
  int64_t total = 0;
  int64_t i = 0;
  uint32_t over, equal;
  for (; i + kScoreLanes <= count; i += kScoreLanes) {
    CompareScores(scores + i, threshold, &over, &equal);
    total += __builtin_popcount(over | equal);
  }
  for (; i < count; ++i) total += scores[i] >= threshold;
  return total;
}

int64_t Select(const int16_t* scores, int64_t count, int16_t threshold, int64_t num_ties, int32_t base, int32_t* out) {
  int32_t* next = out;
  int64_t i = 0;
  for (; i + kScoreLanes <= count; i += kScoreLanes) {
    uint32_t over, equal;
    CompareScores(scores + i, threshold, &over, &equal);
    if (num_ties == 0) equal = 0;
    for (uint32_t found = over | equal; found != 0; found &= found - 1) {
      if ((found & -found & equal) != 0 && --num_ties < 0) {
        num_ties = 0;
        continue;
      }
      *next++ = base + static_cast<int32_t>(i) + __builtin_ctz(found);
    }
  }
  for (; i < count; ++i) {
    if (scores[i] > threshold || (scores[i] == threshold && num_ties > 0)) {
      num_ties -= scores[i] == threshold;
      *next++ = base + static_cast<int32_t>(i);
    }
  }
  return next - out;
}

}  // namespace
}  // namespace spotlight::kernels::cpu
