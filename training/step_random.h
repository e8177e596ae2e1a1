// Random numbers of a training step as a pure function of (seed, purpose, step, rank): a resumed run repeats the
// undisturbed one, and CPU and GPU draw the same. Thread-compatible.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "engine/philox.h"

namespace spotlight::training {

enum class Draw : uint32_t { kQueries, kPositions, kPairs, kStatistics, kScale, kHeldOut };

class StepRandom {
 public:
  StepRandom(uint64_t seed, Draw purpose, int32_t step, int32_t rank = 0)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        counter_{0, static_cast<uint32_t>(step), static_cast<uint32_t>(rank), static_cast<uint32_t>(purpose)} {}

  // Uniform in [0, 1), 53 bits.
  double Uniform() {
    const auto bits = engine::Philox4x32(counter_, key_);
    ++counter_[0];
    return static_cast<double>(((uint64_t{bits[1]} << 32) | bits[0]) >> 11) * 0x1.0p-53;
  }

  // Uniform in [begin, end).
  int64_t Within(int64_t begin, int64_t end) { return begin + static_cast<int64_t>(Uniform() * (end - begin)); }

  // `count` draws of Within, ascending.
  std::vector<int64_t> Ascending(int64_t count, int64_t begin, int64_t end) {
    std::vector<int64_t> values(count);
    for (int64_t& value : values) value = Within(begin, end);
    std::sort(values.begin(), values.end());
    return values;
  }

  // `count` different numbers of [begin, end), ascending; all of them where there are no more.
  std::vector<int64_t> Distinct(int64_t count, int64_t begin, int64_t end) {
    std::vector<int64_t> values(end - begin);
    std::iota(values.begin(), values.end(), begin);
    count = std::min(count, end - begin);
    for (int64_t i = 0; i < count; ++i) std::swap(values[i], values[Within(i, end - begin)]);
    values.resize(count);
    std::sort(values.begin(), values.end());
    return values;
  }

 private:
  const std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> counter_;
};

}  // namespace spotlight::training
