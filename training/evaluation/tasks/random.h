// Random choices that are the same on every machine: the standard's distributions are not. No torch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

namespace spotlight::training {

// Thread-compatible.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  // In [0, bound), bound >= 1. The bias of the remainder is under bound / 2^64.
  int64_t Below(int64_t bound) { return static_cast<int64_t>(engine_() % static_cast<uint64_t>(bound)); }
  template <typename T>
  const T& Pick(const std::vector<T>& values) {
    return values[Below(static_cast<int64_t>(values.size()))];
  }
  template <typename T>
  void Shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[Below(static_cast<int64_t>(i))]);
  }
  // `count` distinct numbers of [0, bound) in the order drawn; all of them where there are fewer.
  std::vector<int64_t> Distinct(int64_t count, int64_t bound) {
    std::vector<int64_t> drawn;
    if (2 * count >= bound) {
      for (int64_t i = 0; i < bound; ++i) drawn.push_back(i);
      Shuffle(drawn);
      drawn.resize(std::min(count, bound));
      return drawn;
    }
    std::vector<int64_t> sorted;
    while (static_cast<int64_t>(drawn.size()) < count) {
      const int64_t value = Below(bound);
      const auto place = std::lower_bound(sorted.begin(), sorted.end(), value);
      if (place != sorted.end() && *place == value) continue;
      sorted.insert(place, value);
      drawn.push_back(value);
    }
    return drawn;
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace spotlight::training
