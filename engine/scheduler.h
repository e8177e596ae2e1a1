// Decides what each step computes: continuous batching, chunked prefill under a token budget, pages, preemption.
//
// - Decode rows first, one token each; what is left of max_step_tokens goes to prefill chunks, first come first served,
//   so a long prompt takes many steps and stalls no running stream. Beside decode rows chunks are as long as the step
//   is predicted (step_time_model.h) to take no more than max_token_gap_seconds; alone they take the whole budget.
// - Who starts next is the waiting line's choice (waiting_line.h). A sequence is admitted when pages for all its tokens
//   are free and one page more per running sequence (so that it does not force an old one out at once). It owns them
//   from then on: prefill never waits for pages.
// - A decode row that needs a page and finds none takes those of another running sequence, perhaps its own: of the
//   youngest of the caller whose sequences hold the most pages, so that one caller's long answers do not push out those
//   of others. That one waits again, ahead of all that never ran, keeps what it generated, and prefills prompt and
//   output anew. The oldest sequence always goes on, so every sequence ends. Young and old go by when they first
//   started.
//
// A sequence starts with the pages that it need not compute: those of the prefix cache, or, for one of several samples
// of a prompt, those of another sample, for which it waits while that one's prompt is being computed. Such pages are
// full and nobody writes to them again. The page of a sequence's last token is always its own: that token is computed,
// for its logits, and what is computed is written.
//
// The prefix cache holds pages computed densely, and no others: a token of a sparse step has other keys and values (in
// the layers after the first hashed one) than dense computation would give it, and so has all that attends to it.
// Prompts are computed densely whatever the request's retrieval mode, so prompts of all modes share; pages of an answer
// are shared as far as every token up to their end was a prompt's or of a dense step. (A preempted sequence computes
// its answer anew, densely.) Pages are offered when they are full, and stay findable after their sequence until they
// are needed.
//
// Invariants: running sequences are in the order in which they first started. A running sequence holds
// PagesFor(num_tokens) pages in prefill, and pages for its cached tokens in decode; a waiting one holds none.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "engine/model_runner.h"
#include "engine/options.h"
#include "engine/page_pool.h"
#include "engine/prefix_cache.h"
#include "engine/sequence.h"
#include "engine/step_plan.h"
#include "engine/step_time_model.h"
#include "engine/waiting_line.h"

namespace spotlight::engine {

// Host code without thread or clock. Sequences are the caller's and live until Finish. Engine thread only.
class Scheduler {
 public:
  // INVALID_ARGUMENT names the option: all at least 1, max_step_tokens at least max_running, short_chunks ascending and
  // the last kMaxShortChunk.
  static absl::Status CheckOptions(const SchedulerOptions& options);
  explicit Scheduler(const SchedulerOptions& options);

  // sequence->max_tokens must fit the cache.
  void Add(Sequence* sequence);
  // Fills `plan`; no rows: nothing to do. Every plan is followed by Advance before the next, and by Commit before the
  // next but one: the step before may be under way, and its tokens unknown. A sequence that has all its tokens by then
  // has no row.
  // A decoding sequence that finds no page while another is about to end in the step under way has none either:
  // it waits for that one's pages, and nobody is preempted.
  void PlanStep(StepPlan* plan);
  // The plan is under way, and steps planned from now on come after it.
  void Advance(const StepPlan& plan);
  // The plan was run. `tokens` has one entry per row that samples, in order; kNoToken appends nothing, and the prefix
  // cache forgets the sequence's pages. What was finished meanwhile gets nothing.
  void Commit(const StepPlan& plan, const std::vector<SampledToken>& tokens);
  // How long the plan's step took, as seen by who waits for its tokens. 0 teaches nothing.
  void Learn(const StepPlan& plan, double seconds);
  // Forgets a sequence in any phase; its pages are free on return. A step under way may still write to them: steps run
  // in their order, so that is before whoever gets them next does.
  void Finish(Sequence* sequence);
  // No later prompt finds the sequence's pages: what they hold is not to be trusted.
  void ForgetPages(const Sequence& sequence);

  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  int32_t num_waiting() const { return static_cast<int32_t>(waiting_.size()); }
  // Tokens of running sequences that are still to be prefilled.
  int64_t prefill_tokens_left() const;
  const PagePool& pages() const { return pages_; }

 private:
  void PlanDecode(StepPlan* plan);
  void PlanPrefill(StepPlan* plan);
  double MaxStepSeconds(int32_t num_decode_rows) const;
  bool Admit(Sequence* sequence, StepPlan* plan);
  // Holds the pages that the sequence need not compute; false when another sample is still computing them.
  bool HasPage(const absl::optional<PageHash>& hash) const;
  bool AdoptPages(Sequence* sequence);
  // A running sequence of the same prompt; null: none.
  const Sequence* OtherSample(const Sequence& sequence) const;
  // Offers the pages that are full of its first `num_tokens` tokens to the prefix cache.
  void NamePages(Sequence* sequence, int32_t num_tokens);
  // Grants pages up to `num_tokens` tokens; false when there are too few.
  bool GrantPages(Sequence* sequence, int32_t num_tokens);
  // Of running_, which sequence gives up its pages: see above. The oldest only when it runs alone.
  size_t Victim() const;
  void Preempt(size_t victim, StepPlan* plan);

  SchedulerOptions options_;
  PagePool pages_;
  PrefixCache prefix_cache_;
  std::vector<int32_t> reclaimed_;  // scratch
  // The latest sequence that could not be admitted for want of pages, and how things were.
  struct Refusal {
    uint64_t sequence_id = 0;
    int32_t num_free = -1, num_running = 0;
    absl::optional<PageHash> missing;  // the first page of its prompt that was not in the prefix cache
  };
  Refusal refusal_;
  std::vector<Sequence*> running_;
  uint64_t num_started_ = 0;
  WaitingLine waiting_;
  StepTimeModel step_times_;
};

}  // namespace spotlight::engine
