// A request between the queue and its end, or one of its samples: everything the engine thread keeps for it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/admission/deadline.h"
#include "engine/model_info.h"
#include "engine/output_processor.h"
#include "engine/request_queue.h"
#include "engine/response_sink.h"
#include "engine/retrieval_policy.h"
#include "engine/sequence.h"
#include "engine/step_stats.h"

namespace spotlight::engine {

// Engine thread only.
class ActiveRequest {
 public:
  // Takes the submission's parts. One for each sample, with ids from `sequence_id` on. `max_tokens` bounds prompt and
  // output together. INTERNAL when the tokenizer fails.
  static absl::StatusOr<std::vector<std::unique_ptr<ActiveRequest>>> Create(Submission* submission,
                                                                            uint64_t sequence_id,
                                                                            const ModelInfo& model,
                                                                            const Tokenizer* tokenizer,
                                                                            int32_t max_tokens);

  // Gives the prompt back.
  void Echo(const std::string& prompt_text) const;
  // A step with a row of this request begins.
  void OnScheduled(absl::Duration now);
  // A step with a row of one of the request's samples begins.
  void OnStarted() { started_ = true; }
  // A token was made. Returns the seconds since the one before; 0 for the first.
  double OnToken(absl::Duration now);
  void OnDecodeRow(const RetrievalDecision& decision, int32_t context_len, const KvTraffic& traffic);
  void OnQualitySample(const QualitySample& sample);
  // Another sample of the request ended; what the request's end will report of it is kept here.
  void OnSampleEnd(const ActiveRequest& ended, int32_t wasted_tokens);

  Finish MakeFinish(absl::Status status, FinishReason reason) const;
  // For the request's statistics: those of its first sample.
  Timings RequestTimings() const;
  RequestPhase phase() const;
  // With the samples that ended before this one: where the most advanced was.
  RequestPhase furthest_phase() const { return std::max(ended_.phase, phase()); }

  const RequestKey& key() const { return key_; }
  Sequence* sequence() { return &sequence_; }
  OutputProcessor* output() { return output_.get(); }
  ResponseSink* sink() { return sink_.get(); }
  bool scheduled() const { return scheduled_; }
  bool started() const { return started_; }
  absl::Duration deadline() const { return deadline_; }
  // What is to be done for it in all.
  const Work& work() const { return work_; }
  absl::Duration accepted() const { return accepted_; }
  absl::Duration last_token() const { return last_token_; }
  int32_t index() const { return static_cast<int32_t>(sequence_.id - sequence_.first_sample_id); }
  int32_t wasted_tokens() const { return ended_.wasted_tokens; }

 private:
  ActiveRequest() = default;
  Timings MakeTimings() const;

  // Of the samples that ended before this one.
  struct Ended {
    int32_t completion_tokens = 0;
    int32_t wasted_tokens = 0;
    int32_t cached_prompt_tokens = 0;
    RequestPhase phase = RequestPhase::kQueued;  // the furthest
    absl::optional<Timings> first_timings;
  };

  RequestKey key_;
  Sequence sequence_;
  std::unique_ptr<OutputProcessor> output_;
  std::shared_ptr<ResponseSink> sink_;
  absl::Duration accepted_, first_scheduled_, first_token_, last_token_;
  absl::Duration deadline_ = absl::InfiniteDuration();  // by the engine's clock
  Work work_;
  bool scheduled_ = false;
  bool started_ = false;
  RetrievalStats retrieval_;
  double selected_ratio_sum_ = 0;
  Ended ended_;
};

}  // namespace spotlight::engine
