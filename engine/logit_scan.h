// One row of logits in blocks: the maximum of each block, found in one pass, lets argmax, top-k and min-p look at few
// logits after it.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace spotlight::engine {

// Thread-compatible. Points into the logits of the latest Scan and keeps its memory from one to the next.
class LogitScan {
 public:
  struct Entry {
    float logit;
    int32_t id;
    // The order of every selection: higher logits first, lower ids first among equals.
    friend bool operator<(const Entry& a, const Entry& b) {
      return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
    }
  };

  // False when the row cannot be sampled: a NaN, an infinite maximum, or nothing finite.
  bool Scan(const float* logits, int32_t vocab_size);

  float max() const { return max_; }
  // Lowest id of the highest logit.
  int32_t Argmax() const;

  // A value that at least `count` logits reach; -infinity when the blocks cannot tell.
  float LowerBoundOfTop(int32_t count);
  // Every logit >= bound, ids ascending. -infinities are left out.
  void CollectFrom(float bound, std::vector<Entry>* entries) const;

  // Sum of exp((logit - max) * scale), accumulated in double. `weights` [vocab_size], when given, receives the terms.
  double SumExp(float scale, float* weights) const;

 private:
  static constexpr int32_t kBlock = 64;

  const float* logits_ = nullptr;
  int32_t vocab_size_ = 0;
  float max_ = -std::numeric_limits<float>::infinity();
  std::vector<float> block_max_;
  std::vector<float> scratch_;
};

// exp(x) for x <= 0 within 2e-7 relative; 0 below -87. Written for the vectoriser.
float ExpNonPositive(float x);

}  // namespace spotlight::engine
