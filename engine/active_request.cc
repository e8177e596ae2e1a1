#include "engine/active_request.h"

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"

namespace spotlight::engine {
namespace {

// What may not be sampled before min_tokens tokens.
std::vector<int32_t> BannedIds(const StoppingParams& stopping, const ModelInfo& model) {
  std::vector<int32_t> ids = stopping.stop_token_ids;
  if (!stopping.ignore_eos) ids.insert(ids.end(), model.eos_token_ids.begin(), model.eos_token_ids.end());
  const auto outside = [&](int32_t id) { return id < 0 || id >= model.vocab_size; };
  ids.erase(std::remove_if(ids.begin(), ids.end(), outside), ids.end());
  return ids;
}

// SplitMix64's sequence (Steele, Lea, Flood 2014) from the request's seed on; sample 0 has that seed itself.
uint64_t SampleSeed(uint64_t seed, int32_t index) {
  if (index == 0) return seed;
  uint64_t bits = seed + static_cast<uint64_t>(index) * 0x9E3779B97F4A7C15;
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB;
  return bits ^ (bits >> 31);
}

}  // namespace

absl::StatusOr<std::vector<std::unique_ptr<ActiveRequest>>> ActiveRequest::Create(Submission* submission,
                                                                                  uint64_t sequence_id,
                                                                                  const ModelInfo& model,
                                                                                  const Tokenizer* tokenizer,
                                                                                  int32_t max_tokens) {
  GenerateRequest& request = submission->request;
  const StoppingParams& stopping = request.stopping;
  Sequence sequence;
  sequence.first_sample_id = sequence_id;
  sequence.num_samples = request.sampling.n;
  sequence.page_hashes = std::move(submission->page_hashes);
  sequence.caller = request.caller;
  sequence.priority = request.priority;
  sequence.prompt_token_ids = std::move(submission->prompt_token_ids);
  const Work work = WorkOf(request, sequence.num_tokens(), max_tokens);
  sequence.sampling = std::move(request.sampling);
  const SamplingParams& sampling = sequence.sampling;
  const bool repetition = *sampling.repetition_penalty != 1.0f;
  sequence.has_penalty = repetition || sampling.presence_penalty != 0 || sampling.frequency_penalty != 0;
  sequence.distinct_prompt_token_ids = std::move(submission->distinct_prompt_token_ids);
  if (stopping.min_tokens > 0) sequence.banned_token_ids = BannedIds(stopping, model);
  sequence.retrieval = request.retrieval;
  sequence.min_tokens = stopping.min_tokens;
  const int32_t max_output = std::min(stopping.max_tokens.value_or(max_tokens), max_tokens - sequence.num_tokens());
  sequence.max_tokens = sequence.num_tokens() + max_output;
  sequence.num_logprobs = request.logprobs.value_or(-1);

  std::vector<std::unique_ptr<ActiveRequest>> samples;
  for (int32_t index = 0; index < sequence.num_samples; ++index) {
    auto active = absl::WrapUnique(new ActiveRequest);
    active->key_ = request.key();
    active->sink_ = submission->sink;
    active->accepted_ = submission->accepted;
    active->deadline_ = submission->accepted + request.timeout;
    active->work_ = work;
    active->sequence_ = index + 1 < sequence.num_samples ? sequence : std::move(sequence);
    active->sequence_.id = sequence_id + index;
    active->sequence_.seed = SampleSeed(*active->sequence_.sampling.seed, index);
    if (index == 0) active->sequence_.num_prompt_logprobs = request.prompt_logprobs.value_or(-1);
    auto output =
        OutputProcessor::Create(tokenizer, stopping, model.eos_token_ids, max_output, request.logprobs.has_value());
    if (!output.ok()) return output.status();
    active->output_ = *std::move(output);
    active->retrieval_.untrained_hash = model.hash.present && !model.hash.trained;
    samples.push_back(std::move(active));
  }
  return samples;
}

void ActiveRequest::Echo(const std::string& prompt_text) const {
  // In pieces: a prompt may be larger than a message.
  constexpr size_t kPieceBytes = 64 << 10, kPieceTokens = 16 << 10;
  const auto is_inside_character = [&](size_t end) {
    return end < prompt_text.size() && (static_cast<unsigned char>(prompt_text[end]) & 0xC0) == 0x80;
  };
  const std::vector<int32_t>& ids = sequence_.prompt_token_ids.ids();
  for (size_t byte = 0, token = 0; byte < prompt_text.size() || token < ids.size();) {
    size_t end = std::min(prompt_text.size(), byte + kPieceBytes);
    while (is_inside_character(end)) --end;
    const size_t token_end = std::min(ids.size(), token + kPieceTokens);
    Delta delta;
    delta.prompt_text = prompt_text.substr(byte, end - byte);
    delta.prompt_token_ids.assign(ids.begin() + token, ids.begin() + token_end);
    sink_->OnDelta(std::move(delta));
    byte = end;
    token = token_end;
  }
}

void ActiveRequest::OnScheduled(absl::Duration now) {
  scheduled_ = true;
  first_scheduled_ = now;
}

double ActiveRequest::OnToken(absl::Duration now) {
  const bool first = output_->num_tokens() == 0;
  if (first) first_token_ = now;
  const double since_last = first ? 0 : absl::ToDoubleSeconds(now - last_token_);
  last_token_ = now;
  return since_last;
}

void ActiveRequest::OnDecodeRow(const RetrievalDecision& decision, int32_t context_len, const KvTraffic& traffic) {
  retrieval_.kv_read_bytes += traffic.read_bytes;
  retrieval_.kv_dense_equivalent_bytes += traffic.dense_equivalent_bytes;
  if (decision.num_select == 0) {
    ++retrieval_.dense_steps;
    retrieval_.dense_reason = decision.dense_reason;
    return;
  }
  ++retrieval_.sparse_steps;
  selected_ratio_sum_ += static_cast<double>(decision.NumAttended()) / context_len;
}

void ActiveRequest::OnQualitySample(const QualitySample& sample) {
  if (sample.outcome == QualityOutcome::kNotFinite) return;
  const RetrievalQuality& measured = sample.measured;
  QualityStats& sums = retrieval_.quality;  // until MakeFinish
  const double mass = measured.attention_mass;
  sums.min_attention_mass = sums.num_samples == 0 ? mass : std::min(sums.min_attention_mass, mass);
  ++sums.num_samples;
  sums.recall += measured.recall;
  sums.iou += measured.iou;
  sums.attention_mass += mass;
  sums.output_error += measured.output_error;
}

void ActiveRequest::OnSampleEnd(const ActiveRequest& ended, int32_t wasted_tokens) {
  ended_.completion_tokens += ended.output_->num_tokens() + ended.ended_.completion_tokens;
  ended_.wasted_tokens += wasted_tokens + ended.ended_.wasted_tokens;
  ended_.phase = std::max(ended_.phase, ended.furthest_phase());
  if (ended.index() == 0) {
    ended_.first_timings = ended.MakeTimings();
    ended_.cached_prompt_tokens = std::max(0, ended.sequence_.num_prompt_hit);
  } else if (ended.ended_.first_timings.has_value()) {
    ended_.first_timings = ended.ended_.first_timings;
    ended_.cached_prompt_tokens = ended.ended_.cached_prompt_tokens;
  }
}

Timings ActiveRequest::RequestTimings() const {
  return index() == 0 ? MakeTimings() : ended_.first_timings.value_or(Timings());
}

Timings ActiveRequest::MakeTimings() const {
  Timings timings;
  const int32_t num_output = output_->num_tokens();
  if (scheduled_) timings.queue = absl::ToDoubleSeconds(first_scheduled_ - accepted_);
  if (num_output > 0) {
    timings.prefill = absl::ToDoubleSeconds(first_token_ - first_scheduled_);
    timings.time_to_first_token = absl::ToDoubleSeconds(first_token_ - accepted_);
    timings.decode = absl::ToDoubleSeconds(last_token_ - first_token_);
  }
  if (num_output > 1) timings.mean_inter_token = timings.decode / (num_output - 1);
  return timings;
}

Finish ActiveRequest::MakeFinish(absl::Status status, FinishReason reason) const {
  Finish finish;
  finish.index = index();
  finish.status = std::move(status);
  finish.reason = reason;
  finish.seed = sequence_.seed;
  finish.usage.prompt_tokens = sequence_.num_prompt_tokens();
  finish.usage.completion_tokens = output_->num_tokens() + ended_.completion_tokens;
  finish.usage.cached_prompt_tokens =
      index() == 0 ? std::max(0, sequence_.num_prompt_hit) : ended_.cached_prompt_tokens;
  finish.timings = MakeTimings();
  finish.retrieval = retrieval_;
  if (retrieval_.sparse_steps > 0) {
    finish.retrieval.selected_ratio = selected_ratio_sum_ / static_cast<double>(retrieval_.sparse_steps);
  }
  QualityStats& quality = finish.retrieval.quality;
  if (quality.num_samples > 0) {
    for (double* const sum : {&quality.recall, &quality.iou, &quality.attention_mass, &quality.output_error}) {
      *sum /= static_cast<double>(quality.num_samples);
    }
  }
  finish.retrieval.fallback = sequence_.quality.fallback;
  return finish;
}

RequestPhase ActiveRequest::phase() const {
  if (!scheduled_) return RequestPhase::kQueued;
  return output_->num_tokens() == 0 ? RequestPhase::kPrefill : RequestPhase::kDecode;
}

}  // namespace spotlight::engine
