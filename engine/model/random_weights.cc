#include "engine/model/random_weights.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/match.h"
#include "engine/model/random_stream.h"
#include "engine/model/safetensors_values.h"

namespace spotlight::engine {
namespace {

constexpr float kDeviation = 0.02f;
constexpr uint16_t kBf16One = 0x3f80;

// A weight is one of 1021 values: the sum of four random bytes, centred and scaled. One 64-bit draw makes two.
constexpr int kNumSums = 4 * 255 + 1;
constexpr float kSumDeviation = 147.8f;  // sqrt(4 * (256^2 - 1) / 12)

const std::array<uint16_t, kNumSums>& WeightOfSum() {
  static const std::array<uint16_t, kNumSums>& table = *[] {
    auto* weights = new std::array<uint16_t, kNumSums>;
    for (int sum = 0; sum < kNumSums; ++sum) {
      (*weights)[sum] = ToBf16(static_cast<float>(sum - 2 * 255) * (kDeviation / kSumDeviation));
    }
    return weights;
  }();
  return table;
}

template <typename T>
T FromBf16(uint16_t bits);

template <>
uint16_t FromBf16(uint16_t bits) {
  return bits;
}

template <>
float FromBf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  memcpy(&value, &wide, sizeof(value));
  return value;
}

// Element i takes half i % 2 of draw i / 2.
template <typename T>
void Fill(const std::string& name, uint64_t seed, int64_t begin, int64_t end, T* out) {
  if (absl::EndsWith(name, "norm.weight")) {
    std::fill(out, out + (end - begin), FromBf16<T>(kBf16One));
    return;
  }
  const RandomStream stream(seed, name);
  const uint16_t* weight_of_sum = WeightOfSum().data();
  const auto pair_sums = [&stream](int64_t pair) {
    uint64_t bits = stream.Bits(static_cast<uint64_t>(pair));
    // The four bytes of each half, added side by side: the sums end in bits [0, 16) and [32, 48).
    bits = (bits & 0x00ff00ff00ff00ff) + (bits >> 8 & 0x00ff00ff00ff00ff);
    return bits + (bits >> 16);
  };
  const auto low = [=](uint64_t sums) { return FromBf16<T>(weight_of_sum[sums & 0xffff]); };
  const auto high = [=](uint64_t sums) { return FromBf16<T>(weight_of_sum[sums >> 32 & 0xffff]); };

  int64_t i = begin;
  if (i < end && i % 2 != 0) {
    out[0] = high(pair_sums(i / 2));
    ++i;
  }
  for (; i + 1 < end; i += 2) {
    const uint64_t sums = pair_sums(i / 2);
    out[i - begin] = low(sums);
    out[i - begin + 1] = high(sums);
  }
  if (i < end) out[i - begin] = low(pair_sums(i / 2));
}

}  // namespace

void FillRandomWeights(const std::string& name, uint64_t seed, int64_t begin, int64_t end, float* out) {
  Fill(name, seed, begin, end, out);
}

void FillRandomWeightsBf16(const std::string& name, uint64_t seed, int64_t begin, int64_t end, uint16_t* out) {
  Fill(name, seed, begin, end, out);
}

}  // namespace spotlight::engine
