// One row of logits to one token, on the host.
//
// In this order: repetition penalty (over prompt and output: l > 0 ? l / p : l * p), presence and frequency penalties
// (over the output), logit_bias, banned ids, temperature, then the filters min_p, top_k, top_p (each on what the one
// before left, in the order of descending logit, ascending id; top_p keeps the shortest prefix that reaches it), then
// the draw. Temperature 0 (below 1e-5) takes the highest logit, the lowest id among equals, and looks at no filter.
// Log-probabilities are those of the raw logits.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/batch.h"
#include "engine/logit_scan.h"
#include "engine/model_runner.h"

namespace spotlight::engine {

inline constexpr float kGreedyTemperature = 1e-5f;  // below it the highest logit is taken

// Whether a row has penalties, and what they count.
bool IsPenalised(const SampleRow& row);

// Thread-compatible: keeps scratch of the vocabulary's size; one per thread. A row's token depends on its logits, its
// sampling parameters, seed and output_index, on nothing else.
class Sampler {
 public:
  // logits [vocab_size] on the host. `row.sampling` has every optional resolved; ids in `row` are in [0, vocab_size).
  // token_id is kNoToken when the logits hold NaN, +infinity, or, after bias and bans, nothing finite.
  SampledToken Sample(const float* logits, int32_t vocab_size, const SampleRow& row);
  // The same with another draw, of [0, 1), than the seed's.
  SampledToken SampleAt(const float* logits, int32_t vocab_size, const SampleRow& row, double draw);

  // The log-probability of a given token, and of the likeliest ones. token_id is kNoToken as above.
  TokenLogprob Score(const float* logits, int32_t vocab_size, const ScoredToken& token);

 private:
  using Entry = LogitScan::Entry;

  // Penalties, bias and bans; returns `logits` itself where none applies.
  const float* Adjust(const float* logits, int32_t vocab_size, const SampleRow& row);
  int32_t DrawFromAll(int32_t vocab_size, float scale, double draw);
  int32_t DrawFiltered(int32_t vocab_size, const SamplingParams& sampling, float scale, double draw);
  TokenLogprob Logprob(const float* logits, int32_t token_id, int32_t num_top);

  // Leaves the `count` best of entries_.
  void KeepTop(int32_t count);
  // Leaves the shortest prefix, best first, whose weight reaches `target`.
  void KeepNucleus(double target, float scale);
  void KeepUpTo(const Entry& last);
  double Weight(const Entry& entry, float scale) const;

  LogitScan raw_;
  LogitScan adjusted_;
  LogitScan* scan_ = nullptr;  // of the logits being drawn from
  std::vector<float> logits_;
  std::vector<float> weights_;
  std::vector<Entry> entries_;  // ids ascending
  std::vector<Entry> order_;
  std::vector<int32_t> counts_;  // [vocab_size], zero between calls
};

}  // namespace spotlight::engine
