#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/philox.h"

namespace spotlight::engine {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

bool IsPenalised(const SampleRow& row) {
  const SamplingParams& sampling = *row.sampling;
  const bool has_penalty =
      *sampling.repetition_penalty != 1.0f || sampling.presence_penalty != 0 || sampling.frequency_penalty != 0;
  return has_penalty && row.output_token_ids != nullptr;
}

SampledToken Sampler::Sample(const float* logits, int32_t vocab_size, const SampleRow& row) {
  return SampleAt(logits, vocab_size, row, UniformDraw(row.seed, static_cast<uint64_t>(row.output_index)));
}

SampledToken Sampler::SampleAt(const float* logits, int32_t vocab_size, const SampleRow& row, double draw) {
  const SamplingParams& sampling = *row.sampling;
  SampledToken result;
  result.token_id = kNoToken;

  const float* adjusted = Adjust(logits, vocab_size, row);
  const bool needs_raw = adjusted == logits || row.num_logprobs >= 0;
  if (needs_raw && !raw_.Scan(logits, vocab_size)) return result;
  scan_ = &raw_;
  if (adjusted != logits) {
    if (!adjusted_.Scan(adjusted, vocab_size)) return result;
    scan_ = &adjusted_;
  }

  if (*sampling.temperature < kGreedyTemperature) {
    result.token_id = scan_->Argmax();
  } else {
    const float scale = 1.0f / *sampling.temperature;
    const bool filtered = *sampling.top_k > 0 || *sampling.top_p < 1.0f || *sampling.min_p > 0;
    result.token_id = filtered ? DrawFiltered(vocab_size, sampling, scale, draw) : DrawFromAll(vocab_size, scale, draw);
  }
  if (row.num_logprobs >= 0) result.logprob = Logprob(logits, result.token_id, row.num_logprobs);
  return result;
}

TokenLogprob Sampler::Score(const float* logits, int32_t vocab_size, const ScoredToken& token) {
  if (raw_.Scan(logits, vocab_size)) return Logprob(logits, token.token_id, token.num_top);
  TokenLogprob none;
  none.token_id = kNoToken;
  return none;
}

const float* Sampler::Adjust(const float* logits, int32_t vocab_size, const SampleRow& row) {
  const SamplingParams& sampling = *row.sampling;
  const bool penalised = IsPenalised(row);
  const bool banned = row.banned_token_ids != nullptr && !row.banned_token_ids->empty();
  if (!penalised && !banned && sampling.logit_bias.empty()) return logits;

  logits_.assign(logits, logits + vocab_size);
  if (penalised) {
    const float repetition = *sampling.repetition_penalty;
    if (counts_.size() < static_cast<size_t>(vocab_size)) counts_.resize(vocab_size, 0);
    for (const int32_t id : *row.output_token_ids) ++counts_[id];
    const auto repeat = [&](int32_t id) {
      logits_[id] = logits_[id] > 0 ? logits_[id] / repetition : logits_[id] * repetition;
    };
    if (row.prompt_token_ids != nullptr && repetition != 1.0f) {
      for (const int32_t id : *row.prompt_token_ids) {
        if (counts_[id] != 0) continue;  // done below, or met before
        repeat(id);
        counts_[id] = -1;
      }
      for (const int32_t id : *row.prompt_token_ids) counts_[id] = std::max(counts_[id], 0);
    }
    for (const int32_t id : *row.output_token_ids) {
      const int32_t count = counts_[id];
      if (count == 0) continue;
      counts_[id] = 0;
      repeat(id);
      logits_[id] -= sampling.presence_penalty + sampling.frequency_penalty * static_cast<float>(count);
    }
  }
  for (const auto& [id, bias] : sampling.logit_bias) logits_[id] += bias;
  if (banned) {
    for (const int32_t id : *row.banned_token_ids) logits_[id] = -kInfinity;
  }
  return logits_.data();
}

int32_t Sampler::DrawFromAll(int32_t vocab_size, float scale, double draw) {
  weights_.resize(vocab_size);
  double left = draw * scan_->SumExp(scale, weights_.data());
  int32_t last = 0;
  for (int32_t id = 0; id < vocab_size; ++id) {
    if (weights_[id] == 0) continue;
    last = id;
    left -= weights_[id];
    if (left < 0) break;
  }
  return last;  // rounding may leave a trace of weight past the last token
}

int32_t Sampler::DrawFiltered(int32_t vocab_size, const SamplingParams& sampling, float scale, double draw) {
  const bool nucleus = *sampling.top_p < 1.0f;
  const int32_t top_k = *sampling.top_k;
  double total = -1;  // weight that top_p is a share of; < 0: that of entries_
  float bound = -kInfinity;
  if (*sampling.min_p > 0) {
    bound = scan_->max() + std::log(*sampling.min_p) / scale;
  }
  if (top_k > 0) {
    bound = std::max(bound, scan_->LowerBoundOfTop(top_k));
  } else if (*sampling.min_p == 0) {
    // Tokens lighter than an even share of what top_p may drop cannot be in the nucleus: together they weigh less.
    total = scan_->SumExp(scale, nullptr);
    const double light = (1.0 - *sampling.top_p) * total / vocab_size;
    bound = scan_->max() + static_cast<float>(std::log(light) / scale - 1e-4);
  }
  // A bound above the maximum by rounding must not leave nothing.
  scan_->CollectFrom(std::min(bound, scan_->max()), &entries_);
  if (top_k > 0) KeepTop(top_k);
  if (nucleus) {
    if (total < 0) {
      total = 0;
      for (const Entry& entry : entries_) total += Weight(entry, scale);
    }
    KeepNucleus(*sampling.top_p * total, scale);
  }

  double kept = 0;
  for (const Entry& entry : entries_) kept += Weight(entry, scale);
  double left = draw * kept;
  int32_t last = entries_.front().id;
  for (const Entry& entry : entries_) {
    const double weight = Weight(entry, scale);
    if (weight == 0) continue;
    last = entry.id;
    left -= weight;
    if (left < 0) break;
  }
  return last;
}

TokenLogprob Sampler::Logprob(const float* logits, int32_t token_id, int32_t num_top) {
  const double log_sum = raw_.max() + std::log(raw_.SumExp(1.0f, nullptr));
  TokenLogprob logprob;
  logprob.token_id = token_id;
  logprob.logprob = static_cast<float>(logits[token_id] - log_sum);
  if (num_top == 0) return logprob;
  raw_.CollectFrom(raw_.LowerBoundOfTop(num_top), &order_);
  const size_t count = std::min(order_.size(), static_cast<size_t>(num_top));
  std::partial_sort(order_.begin(), order_.begin() + count, order_.end());
  for (size_t i = 0; i < count; ++i) {
    logprob.top.emplace_back(order_[i].id, static_cast<float>(order_[i].logit - log_sum));
  }
  return logprob;
}

void Sampler::KeepTop(int32_t count) {
  if (entries_.size() <= static_cast<size_t>(count)) return;
  order_ = entries_;
  std::nth_element(order_.begin(), order_.begin() + (count - 1), order_.end());
  KeepUpTo(order_[count - 1]);
}

void Sampler::KeepNucleus(double target, float scale) {
  order_ = entries_;
  size_t begin = 0, end = order_.size();
  double before = 0;  // weight of order_[0, begin)
  // Quickselect by weight: the last token of the nucleus is in [begin, end).
  while (end - begin > 16) {
    const size_t middle = begin + (end - begin) / 2;
    std::nth_element(order_.begin() + begin, order_.begin() + middle, order_.begin() + end);
    double upper = 0;
    for (size_t i = begin; i < middle; ++i) upper += Weight(order_[i], scale);
    if (before + upper >= target) {
      end = middle;
    } else {
      before += upper;
      begin = middle;
    }
  }
  std::sort(order_.begin() + begin, order_.begin() + end);
  size_t last = begin;
  for (; last + 1 < end; ++last) {
    before += Weight(order_[last], scale);
    if (before >= target) break;
  }
  KeepUpTo(order_[last]);
}

void Sampler::KeepUpTo(const Entry& last) {
  const auto dropped = [&last](const Entry& entry) { return last < entry; };
  entries_.erase(std::remove_if(entries_.begin(), entries_.end(), dropped), entries_.end());
}

double Sampler::Weight(const Entry& entry, float scale) const {
  return ExpNonPositive((entry.logit - scan_->max()) * scale);
}

}  // namespace spotlight::engine
