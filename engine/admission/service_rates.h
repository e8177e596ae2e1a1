// How fast the engine has been lately, as far as measured: what decides whether a deadline can be met.
//
// Every figure errs on the fast side, because a request that is refused wrongly is worse than one that is tried in
// vain: rises of a step's time are believed slowly, falls at once, and of what answers and prompts turned out to be,
// the tenth percentile counts (nine in ten took more). What the load decides has a margin on top (deadline.h).
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "engine/mutex.h"

namespace spotlight::engine {

// A reading. Zero seconds and rates: not measured yet.
struct Rates {
  double step_seconds = 0;          // a step that decodes, at the present batch: what a running stream waits per token
  double fastest_step_seconds = 0;  // the fastest such step ever
  double chunk_seconds = 0;         // a step whose budget prompts fill
  double ends_per_second = 0;       // samples that end while others wait for their place: how fast the queue drains
  double answer_tokens = 0;         // answers that came to their end, tenth percentile of their tokens
  double answer_ratio = 0;          // likewise of what they took of their max_tokens
  double computed_ratio = 1;        // likewise of the share of a prompt that no cache held
  int32_t max_step_tokens = 1;
  int32_t max_running = 1;
  int32_t num_running = 0;
  int64_t prefill_tokens_left = 0;  // prompt tokens of running requests that are still to be computed
};

struct MeasuredStep {
  double seconds = 0;
  int32_t num_decode_rows = 0;
  int32_t num_prefill_tokens = 0;
  int32_t num_ended = 0;   // samples that had run and ended since the step before
  bool saturated = false;  // something waited that could not start, or every place was taken
};

struct EndedRequest {
  int32_t prompt_tokens = 0;
  int32_t cached_prompt_tokens = 0;
  int32_t answer_tokens = 0;
  int32_t max_answer_tokens = 1;
};

// Thread-safe.
class ServiceRates {
 public:
  ServiceRates() = default;
  void SetBounds(int32_t max_running, int32_t max_step_tokens);
  void OnStep(const MeasuredStep& step);
  void OnLoad(int32_t num_running, int64_t prefill_tokens_left);
  // A request that stopped by itself or at its length; of several samples, the first.
  void OnAnswered(const EndedRequest& request);
  Rates Read() const;

 private:
  // An average in which a value counts at most twice what was believed before it.
  struct StepTime {
    double seconds = 0;
    int32_t num_samples = 0;
    void Add(double value);
    double measured() const;
  };

  mutable Mutex mutex_;
  Rates rates_ ABSL_GUARDED_BY(mutex_);
  StepTime decode_ ABSL_GUARDED_BY(mutex_);
  StepTime chunk_ ABSL_GUARDED_BY(mutex_);
  // Time during which others waited, summed, and its readings at the latest ends.
  double saturated_seconds_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<double> ends_ ABSL_GUARDED_BY(mutex_);
  std::deque<EndedRequest> answered_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spotlight::engine
