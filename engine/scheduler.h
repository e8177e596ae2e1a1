// Decides what each step computes: continuous batching, chunked prefill under a token budget, pages, preemption.
//
// - Decode rows first, one token each; what is left of max_step_tokens goes to prefill chunks, first come first served,
//   so a long prompt takes many steps and stalls no running stream.
// - Who starts next is the waiting line's choice (waiting_line.h). A sequence is admitted when pages for all its tokens
// are free and one page more per running sequence (so
//   that it does not force an old one out at once). It owns them from then on: prefill never waits for pages.
// - A decode row that needs a page and finds none takes those of the youngest running sequence, perhaps its own. That
//   one waits again, ahead of all that never ran, keeps what it generated, and prefills prompt and output anew. The
//   oldest sequence always goes on, so every sequence ends. Young and old go by when they started.
//
// Invariants: running sequences are in the order in which they first started. A running sequence owns
// PagesFor(num_tokens) pages in prefill, and pages for its cached tokens in decode; a waiting one owns none.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "engine/model_runner.h"
#include "engine/options.h"
#include "engine/page_pool.h"
#include "engine/sequence.h"
#include "engine/step_plan.h"
#include "engine/waiting_line.h"

namespace spotlight::engine {

// Host code without thread or clock. Sequences are the caller's and live until Finish. Engine thread only.
class Scheduler {
 public:
  // INVALID_ARGUMENT names the option: all at least 1, max_step_tokens at least max_running.
  static absl::Status CheckOptions(const SchedulerOptions& options);
  explicit Scheduler(const SchedulerOptions& options);

  // sequence->max_tokens must fit the cache.
  void Add(Sequence* sequence);
  // Fills `plan`; no rows: nothing to do. Every plan is followed by Commit before the next.
  void PlanStep(StepPlan* plan);
  // The plan was run. `tokens` has one entry per row that samples, in order; kNoToken appends nothing.
  void Commit(const StepPlan& plan, const std::vector<SampledToken>& tokens);
  // Forgets a sequence in any phase; its pages are free on return.
  void Finish(Sequence* sequence);

  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  int32_t num_waiting() const { return static_cast<int32_t>(waiting_.size()); }
  // Tokens of running sequences that are still to be prefilled.
  int64_t prefill_tokens_left() const;
  const PagePool& pages() const { return pages_; }

 private:
  void PlanDecode(StepPlan* plan);
  void PlanPrefill(StepPlan* plan);
  bool Admit(Sequence* sequence);
  // Grants pages up to `num_tokens` tokens; false when there are too few.
  bool GrantPages(Sequence* sequence, int32_t num_tokens);
  void PreemptYoungest(StepPlan* plan);

  SchedulerOptions options_;
  PagePool pages_;
  std::vector<Sequence*> running_;
  WaitingLine waiting_;
};

}  // namespace spotlight::engine
