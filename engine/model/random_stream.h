// Random numbers by counter: number i of a stream depends on the stream's key and on i alone, so a buffer can be filled
// in any order and by any number of threads. SplitMix64 (Steele, Lea, Flood 2014).
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace spotlight::engine {

inline uint64_t SplitMix64(uint64_t state) {
  state = (state ^ state >> 30) * 0xbf58476d1ce4e5b9;
  state = (state ^ state >> 27) * 0x94d049bb133111eb;
  return state ^ state >> 31;
}

class RandomStream {
 public:
  // One stream per (seed, name): FNV-1a of the name, mixed with the seed.
  RandomStream(uint64_t seed, absl::string_view name) {
    uint64_t hash = 0xcbf29ce484222325;
    for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
    key_ = SplitMix64(SplitMix64(seed + 0x9e3779b97f4a7c15) ^ hash);
  }

  uint64_t Bits(uint64_t i) const { return SplitMix64(key_ + (i + 1) * 0x9e3779b97f4a7c15); }

  // Mean 0, variance 1, within 3.5: the sum of four 16-bit uniforms.
  float Normal(uint64_t i) const {
    const uint64_t bits = Bits(i);
    const auto sum =
        static_cast<int32_t>((bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48));
    constexpr float kInverseDeviation = 2.6429e-05f;  // 1 / sqrt(4 * (65536^2 - 1) / 12)
    return static_cast<float>(sum - 2 * 65535) * kInverseDeviation;
  }

 private:
  uint64_t key_ = 0;
};

}  // namespace spotlight::engine
