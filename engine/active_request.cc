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

}  // namespace

absl::StatusOr<std::unique_ptr<ActiveRequest>> ActiveRequest::Create(Submission* submission, uint64_t sequence_id,
                                                                     const ModelInfo& model, const Tokenizer* tokenizer,
                                                                     int32_t max_tokens) {
  GenerateRequest& request = submission->request;
  const StoppingParams& stopping = request.stopping;
  auto active = absl::WrapUnique(new ActiveRequest);
  active->request_id_ = request.request_id;
  active->sink_ = submission->sink;
  active->accepted_ = submission->accepted;
  active->deadline_ = submission->accepted + request.timeout;

  Sequence& sequence = active->sequence_;
  sequence.id = sequence_id;
  sequence.caller = request.caller;
  sequence.priority = request.priority;
  sequence.prompt_token_ids = std::move(submission->prompt_token_ids);
  sequence.sampling = std::move(request.sampling);
  const SamplingParams& sampling = sequence.sampling;
  const bool repetition = *sampling.repetition_penalty != 1.0f;
  sequence.has_penalty = repetition || sampling.presence_penalty != 0 || sampling.frequency_penalty != 0;
  sequence.distinct_prompt_token_ids = std::move(submission->distinct_prompt_token_ids);
  if (stopping.min_tokens > 0) sequence.banned_token_ids = BannedIds(stopping, model);
  sequence.seed = *sampling.seed;
  sequence.retrieval = request.retrieval;
  sequence.min_tokens = stopping.min_tokens;
  const int32_t max_output = std::min(stopping.max_tokens.value_or(max_tokens), max_tokens - sequence.num_tokens());
  sequence.max_tokens = sequence.num_tokens() + max_output;
  active->work_ = WorkOf(request, sequence.num_tokens(), max_tokens);
  sequence.num_logprobs = request.logprobs.value_or(-1);

  auto output =
      OutputProcessor::Create(tokenizer, stopping, model.eos_token_ids, max_output, request.logprobs.has_value());
  if (!output.ok()) return output.status();
  active->output_ = *std::move(output);
  active->retrieval_.untrained_hash = model.hash.present && !model.hash.trained;
  return active;
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

void ActiveRequest::OnDecodeRow(const RetrievalPolicy& policy, const RetrievalDecision& decision, int32_t context_len,
                                const KvTraffic& traffic) {
  retrieval_.kv_read_bytes += traffic.read_bytes;
  retrieval_.kv_dense_equivalent_bytes += traffic.dense_equivalent_bytes;
  if (decision.num_select == 0) {
    ++retrieval_.dense_steps;
    retrieval_.dense_reason = decision.dense_reason;
    return;
  }
  ++retrieval_.sparse_steps;
  selected_ratio_sum_ += static_cast<double>(policy.NumAttended(decision.num_select)) / context_len;
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

Finish ActiveRequest::MakeFinish(absl::Status status, FinishReason reason) const {
  Finish finish;
  finish.status = std::move(status);
  finish.reason = reason;
  finish.seed = sequence_.seed;
  const int32_t num_output = output_->num_tokens();
  finish.usage.prompt_tokens = static_cast<int32_t>(sequence_.prompt_token_ids.size());
  finish.usage.completion_tokens = num_output;
  Timings& timings = finish.timings;
  if (scheduled_) timings.queue = absl::ToDoubleSeconds(first_scheduled_ - accepted_);
  if (num_output > 0) {
    timings.prefill = absl::ToDoubleSeconds(first_token_ - first_scheduled_);
    timings.time_to_first_token = absl::ToDoubleSeconds(first_token_ - accepted_);
    timings.decode = absl::ToDoubleSeconds(last_token_ - first_token_);
  }
  if (num_output > 1) timings.mean_inter_token = timings.decode / (num_output - 1);
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
