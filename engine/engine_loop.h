// The one engine thread's work: each pass takes what arrived, runs one step of the model over all running sequences,
// and hands out what it made. The order of the calls, and nothing else, is decided here.
//
// Where the runner takes two steps at a time, a pass plans and launches a step while the one before is under way, and
// hands out that one's tokens while its own is. A step is planned without the tokens of the one before: they are fed to
// it on the device, and a sequence that turns out to have ended with such a token has one row too many, whose token
// nobody sees.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "engine/active_request.h"
#include "engine/batch.h"
#include "engine/clock.h"
#include "engine/model_info.h"
#include "engine/model_runner.h"
#include "engine/mutex.h"
#include "engine/options.h"
#include "engine/quality_policy.h"
#include "engine/request_queue.h"
#include "engine/retrieval_policy.h"
#include "engine/scheduler.h"
#include "engine/step_stats.h"
#include "engine/step_watch.h"
#include "engine/tokenizer/tokenizer.h"

namespace spotlight::engine {

// Has no thread: whoever calls RunOnce is the engine thread. Only load() and CheckProgress() are thread-safe.
class EngineLoop {
 public:
  // Everything pointed to outlives the loop; `observer` may be null. Options have been checked.
  EngineLoop(const EngineOptions& options, const ModelInfo& model, const RetrievalPolicy& policy,
             const QualityPolicy& quality_policy, const Tokenizer* tokenizer, ModelRunner* runner, RequestQueue* queue,
             StatsObserver* observer, const Clock* clock);
  ~EngineLoop();

  // One pass: arrivals, cancellations, deadlines, one step launched, one step ended. False when there was nothing to do
  // and nothing is under way. When the runner fails, every request ends INTERNAL, those to come as well, and the queue
  // is closed.
  bool RunOnce();

  // Of the latest pass: running sequences, as waiting those that were preempted and further samples of what has
  // started, pages, health. Of now: whether a step hangs.
  EngineLoad load() const;
  // UNAVAILABLE once a step takes longer than it may (EngineOptions::max_step_seconds). Thread-safe.
  absl::Status CheckProgress() const;

  // Prompt and output tokens that one request may have.
  int32_t max_request_tokens() const { return max_request_tokens_; }
  // Requests that end at a deadline if not before. Engine thread only.
  int32_t num_with_deadline() const { return static_cast<int32_t>(deadlines_.size()); }

 private:
  bool TakeArrivals();
  void Accept(Submission* submission);
  void Cancel(const Cancellation& cancellation);
  // Ends what is past its deadline, and refuses what waits and can no longer end by it.
  void CheckDeadlines();
  // A step between its plan and its end.
  struct Step {
    StepPlan plan;
    Batch batch;
    uint64_t number = 0;
    absl::Duration start = absl::ZeroDuration();
    bool saturated = false;
    bool usual =
        false;  // nothing was measured, prepared or launched beside it that others have not: its time is theirs
  };

  void LaunchStep(Step* step);
  // Waits for the step under way and hands out what it made.
  void EndStep();
  void MarkScheduled(const StepPlan& plan, absl::Duration now);
  // A sample of the request begins: the queue no longer counts it, and what of it still waits is counted here.
  void MarkStarted(const Sequence& sequence);
  void JudgeRetrieval(const QualityReading& reading);
  // Hands out what was computed of a prompt row's log-probabilities. False: the request will fail.
  bool DeliverPromptLogprobs(Sequence* sequence, TokenLogprob* scored, size_t count);
  void CountDecodeRow(const PlanRow& row, ActiveRequest* request);
  void Deliver(const SampledToken& token, ActiveRequest* request, absl::Duration now);
  void Fail(const absl::Status& fault);
  // Removes the sample everywhere, then tells the sink, and with the request's last sample the observer. `request` is
  // gone afterwards.
  void End(ActiveRequest* request, Finish finish, int32_t wasted_tokens = 0);
  // Ends all samples of the request that are left.
  void EndSamples(uint64_t first_sample_id, const absl::Status& status, FinishReason reason,
                  absl::optional<absl::Duration> cancelled);
  ActiveRequest* FindSample(const Sequence& sequence);
  // Ends one that was never active.
  void Reject(const Submission& submission, absl::Status status, FinishReason reason);
  void PublishLoad();
  void ReportStep();

  const ModelInfo& model_;
  const RetrievalPolicy policy_;
  QualityPolicy quality_policy_;
  const int32_t max_request_tokens_;
  const int32_t max_running_;
  const Tokenizer* const tokenizer_;
  ModelRunner* const runner_;
  RequestQueue* const queue_;
  StatsObserver* const observer_;
  const Clock* const clock_;

  Scheduler scheduler_;
  std::unordered_map<uint64_t, std::unique_ptr<ActiveRequest>> requests_;  // by sequence id
  std::map<RequestKey, uint64_t> sequence_ids_;                            // of the first sample
  std::set<std::pair<absl::Duration, uint64_t>> deadlines_;                // with the first sample; those that have one
  uint64_t next_sequence_id_ = 0;
  // Samples, as num_running and num_waiting of the scheduler.
  int32_t num_unstarted_ = 0;  // of requests that the queue counts
  int32_t num_ended_ = 0;      // that had been scheduled, since the latest step
  uint64_t num_sparse_steps_ = 0;
  absl::Status fault_;

  // Arrivals and steps are kept from pass to pass for their memory.
  Arrivals arrivals_;
  Step steps_[2];
  uint64_t num_planned_ = 0, num_steps_ended_ = 0;
  Step* under_way_ = nullptr;  // launched
  // Ended requests that a planned step may still have rows of, and the latest such step.
  std::vector<std::pair<uint64_t, std::unique_ptr<ActiveRequest>>> over_;
  absl::Duration last_end_ = absl::ZeroDuration();  // of a step
  absl::Duration waited_ = absl::ZeroDuration();    // for the runner, since then
  StepStats stats_;                                 // to be reported with the next step that ends
  // Requests to end after the step's tokens are delivered, by their first sample's id.
  std::vector<std::pair<uint64_t, absl::Status>> failed_;

  StepWatch watch_;
  mutable Mutex load_mutex_;
  EngineLoad load_ ABSL_GUARDED_BY(load_mutex_);
};

}  // namespace spotlight::engine
