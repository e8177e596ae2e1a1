#include "engine/scheduler.h"

#include <algorithm>
#include <cassert>

#include "absl/strings/str_cat.h"

namespace spotlight::engine {

absl::Status Scheduler::CheckOptions(const SchedulerOptions& options) {
  if (options.num_pages < 1) {
    return absl::InvalidArgumentError(absl::StrCat("num_pages: must be at least 1, got ", options.num_pages));
  }
  if (options.max_running < 1) {
    return absl::InvalidArgumentError(absl::StrCat("max_running: must be at least 1, got ", options.max_running));
  }
  if (options.max_step_tokens < options.max_running) {
    return absl::InvalidArgumentError(absl::StrCat("max_step_tokens: must be at least max_running, ",
                                                   options.max_running, ", got ", options.max_step_tokens));
  }
  return absl::OkStatus();
}

Scheduler::Scheduler(const SchedulerOptions& options) : options_(options), pages_(options.num_pages) {}

void Scheduler::Add(Sequence* sequence) {
  assert(PagesFor(sequence->max_tokens) <= pages_.num_pages());
  waiting_.Push(sequence);
}

void Scheduler::PlanStep(StepPlan* plan) {
  plan->Clear();
  PlanDecode(plan);
  PlanPrefill(plan);
}

void Scheduler::PlanDecode(StepPlan* plan) {
  // The size changes under the loop: victims leave at the back, behind or at `i`.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence* const sequence = running_[i];
    if (sequence->phase != SequencePhase::kDecode) continue;
    while (sequence->phase == SequencePhase::kDecode && !GrantPages(sequence, sequence->num_tokens())) {
      PreemptYoungest(plan);
    }
    if (sequence->phase != SequencePhase::kDecode) break;  // it was the youngest itself
    plan->rows.push_back({sequence, sequence->num_cached, 1, true, {}});
  }
  plan->num_decode_rows = static_cast<int32_t>(plan->rows.size());
}

void Scheduler::PlanPrefill(StepPlan* plan) {
  int32_t budget = options_.max_step_tokens - plan->num_decode_rows;
  const auto plan_chunk = [&](Sequence* sequence) {
    const int32_t remaining = sequence->num_tokens() - sequence->num_cached;
    const int32_t chunk = std::min(remaining, budget);
    plan->rows.push_back({sequence, sequence->num_cached, chunk, chunk == remaining, {}});
    budget -= chunk;
  };
  for (Sequence* const sequence : running_) {
    if (budget == 0) return;
    if (sequence->phase == SequencePhase::kPrefill) plan_chunk(sequence);
  }
  // What was just taken from a sequence is not given back to it in the same step.
  if (plan->num_preempted > 0) return;
  while (budget > 0 && !waiting_.empty() && Admit(waiting_.Front())) {
    running_.push_back(waiting_.Front());
    waiting_.PopFront();
    plan_chunk(running_.back());
  }
}

bool Scheduler::Admit(Sequence* sequence) {
  if (num_running() >= options_.max_running) return false;
  const int32_t needed = PagesFor(sequence->num_tokens()) + num_running();
  if (needed > pages_.num_free()) return false;
  GrantPages(sequence, sequence->num_tokens());
  sequence->phase = SequencePhase::kPrefill;
  return true;
}

bool Scheduler::GrantPages(Sequence* sequence, int32_t num_tokens) {
  const int32_t missing = PagesFor(num_tokens) - static_cast<int32_t>(sequence->pages.size());
  return missing <= 0 || pages_.Allocate(missing, &sequence->pages);
}

void Scheduler::PreemptYoungest(StepPlan* plan) {
  Sequence* const victim = running_.back();
  running_.pop_back();
  pages_.Free(&victim->pages);
  victim->num_cached = 0;
  victim->phase = SequencePhase::kWaiting;
  waiting_.PushPreempted(victim);
  ++plan->num_preempted;
}

void Scheduler::Commit(const StepPlan& plan, const std::vector<SampledToken>& tokens) {
  size_t next = 0;
  for (const PlanRow& row : plan.rows) {
    Sequence* const sequence = row.sequence;
    sequence->num_cached = row.begin + row.num_tokens;
    if (!row.samples) continue;
    assert(next < tokens.size());
    const int32_t token_id = tokens[next++].token_id;
    if (token_id != kNoToken) {
      sequence->output_token_ids.push_back(token_id);
      WaitingLine::OnToken(sequence);
    }
    sequence->phase = SequencePhase::kDecode;
  }
  assert(next == tokens.size());
}

void Scheduler::Finish(Sequence* sequence) {
  pages_.Free(&sequence->pages);
  waiting_.Forget(sequence);
  if (sequence->phase != SequencePhase::kWaiting) {
    running_.erase(std::find(running_.begin(), running_.end(), sequence));
  }
}

int64_t Scheduler::prefill_tokens_left() const {
  int64_t num_tokens = 0;
  for (const Sequence* const sequence : running_) {
    if (sequence->phase == SequencePhase::kPrefill) num_tokens += sequence->num_tokens() - sequence->num_cached;
  }
  return num_tokens;
}

}  // namespace spotlight::engine
