#include "engine/logit_scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

namespace spotlight::engine {
namespace {

constexpr int kLanes = 16;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Cephes' expf: exp(x) = 2^n * exp(r), |r| <= ln(2) / 2.
inline float Exp(float x) {
  const float clamped = x < -87.0f ? -87.0f : x;
  const auto n = static_cast<int32_t>(clamped * 1.44269504f - 0.5f);  // truncation rounds to nearest for x <= 0
  const auto n_float = static_cast<float>(n);
  const float r = (clamped - n_float * 0.693359375f) + n_float * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (n + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return x < -87.0f ? 0.0f : p * power;
}

// The maximum of a block; NaN when it holds one.
inline float BlockMax(const float* x, int32_t n) {
  float lane_max[kLanes];
  int32_t lane_nan[kLanes];
  for (int l = 0; l < kLanes; ++l) lane_max[l] = -kInfinity, lane_nan[l] = 0;
  int32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const float value = x[i + l];
      lane_max[l] = value > lane_max[l] ? value : lane_max[l];
      lane_nan[l] |= value != value;
    }
  }
  for (; i < n; ++i) {
    lane_max[0] = x[i] > lane_max[0] ? x[i] : lane_max[0];
    lane_nan[0] |= x[i] != x[i];
  }
  int32_t any_nan = 0;
  for (int l = 0; l < kLanes; ++l) any_nan |= lane_nan[l];
  return any_nan ? std::numeric_limits<float>::quiet_NaN() : *std::max_element(lane_max, lane_max + kLanes);
}

}  // namespace

float ExpNonPositive(float x) {
  return Exp(x);
}

bool LogitScan::Scan(const float* logits, int32_t vocab_size) {
  logits_ = logits;
  vocab_size_ = vocab_size;
  max_ = -kInfinity;
  block_max_.clear();
  for (int32_t begin = 0; begin < vocab_size; begin += kBlock) {
    const float block_max = BlockMax(logits + begin, std::min(kBlock, vocab_size - begin));
    if (std::isnan(block_max)) return false;
    block_max_.push_back(block_max);
    max_ = std::max(max_, block_max);
  }
  return std::isfinite(max_);
}

int32_t LogitScan::Argmax() const {
  const auto block = std::find(block_max_.begin(), block_max_.end(), max_) - block_max_.begin();
  const float* begin = logits_ + block * kBlock;
  return static_cast<int32_t>(std::find(begin, logits_ + vocab_size_, max_) - logits_);
}

float LogitScan::LowerBoundOfTop(int32_t count) {
  if (count < 1 || static_cast<size_t>(count) > block_max_.size()) return -kInfinity;
  scratch_ = block_max_;
  std::nth_element(scratch_.begin(), scratch_.begin() + (count - 1), scratch_.end(), std::greater<float>());
  return scratch_[count - 1];
}

void LogitScan::CollectFrom(float bound, std::vector<Entry>* entries) const {
  entries->clear();
  bound = std::max(bound, std::numeric_limits<float>::lowest());
  for (size_t block = 0; block < block_max_.size(); ++block) {
    if (block_max_[block] < bound) continue;
    const auto begin = static_cast<int32_t>(block) * kBlock;
    const int32_t end = std::min(begin + kBlock, vocab_size_);
    for (int32_t id = begin; id < end; ++id) {
      if (logits_[id] >= bound) entries->push_back({logits_[id], id});
    }
  }
}

double LogitScan::SumExp(float scale, float* weights) const {
  double sum = 0;
  float terms[kBlock];
  for (int32_t begin = 0; begin < vocab_size_; begin += kBlock) {
    const int32_t n = std::min(kBlock, vocab_size_ - begin);
    const float* x = logits_ + begin;
    float* out = weights != nullptr ? weights + begin : terms;
    if (n == kBlock) {  // a constant trip count vectorises
      for (int32_t i = 0; i < kBlock; ++i) out[i] = Exp((x[i] - max_) * scale);
    } else {
      for (int32_t i = 0; i < n; ++i) out[i] = Exp((x[i] - max_) * scale);
    }
    double lanes[4] = {0, 0, 0, 0};
    int32_t i = 0;
    for (; i + 4 <= n; i += 4) {
      for (int l = 0; l < 4; ++l) lanes[l] += out[i + l];
    }
    for (; i < n; ++i) lanes[0] += out[i];
    sum += (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
  }
  return sum;
}

}  // namespace spotlight::engine
