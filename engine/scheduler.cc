#include "engine/scheduler.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <functional>
#include <limits>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/ops/prefill_blocks.h"
#include "engine/short_chunk.h"
#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

constexpr double kMaxSlowdown = 3;    // of a step that decodes, by prompts
constexpr double kAimedShare = 0.85;  // of the longest step allowed: predictions err
constexpr int32_t kMinFurtherChunkTokens = kernels::kPageTokens;

// At most `length`, where that is not too short: one that a graph is captured for, or of longer ones four to an octave,
// for matrix libraries prepare for every number of rows that is new to them.
int32_t OneOfFewLengths(int32_t length, const std::vector<int32_t>& short_chunks) {
  if (length <= kMaxShortChunk) return ShortChunkWithin(length, short_chunks);
  int32_t step = 1;
  while (8 * step <= length) step *= 2;
  return length / step * step;
}

// Of `remaining` tokens from `begin` on, at most `most`: a long chunk that is not the last ends where attention's
// blocks do, so that the next one begins there.
int32_t ChunkOf(int32_t begin, int32_t remaining, int32_t most) {
  if (remaining <= most) return remaining;
  const auto unit = static_cast<int32_t>(PrefillBlocks().unit);
  const int32_t aligned = (begin + most) / unit * unit - begin;
  return aligned >= unit ? aligned : most;
}

// Its last token is under way.
bool AboutToEnd(const Sequence& sequence) {
  return sequence.num_pending > 0 && sequence.num_tokens() >= sequence.max_tokens;
}

}  // namespace

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
  if (!(options.max_token_gap_seconds >= 0 && options.max_token_gap_seconds < 1e6)) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_token_gap_seconds: must be in [0, 1e6), got ", options.max_token_gap_seconds));
  }
  const std::vector<int32_t>& lengths = options.short_chunks;
  const bool ascend = std::adjacent_find(lengths.begin(), lengths.end(), std::greater_equal<>()) == lengths.end();
  if (lengths.empty() || lengths.front() < 1 || !ascend || lengths.back() != kMaxShortChunk) {
    return absl::InvalidArgumentError(absl::StrCat("short_chunks: must ascend from at least 1 to ", kMaxShortChunk,
                                                   ", got [", absl::StrJoin(lengths, ", "), "]"));
  }
  return absl::OkStatus();
}

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options), pages_(options.num_pages), prefix_cache_(options.num_pages) {}

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
  for (size_t i = 0; i < running_.size();) {
    Sequence* const sequence = running_[i];
    bool waits = AboutToEnd(*sequence);
    while (!waits && sequence->phase == SequencePhase::kDecode && !GrantPages(sequence, sequence->num_tokens())) {
      // Rather a step without a token than pages taken from somebody.
      waits = std::any_of(running_.begin(), running_.end(), [](const Sequence* each) { return AboutToEnd(*each); });
      if (waits) break;
      const size_t victim = Victim();
      Preempt(victim, plan);
      if (victim < i) --i;
    }
    if (sequence->phase == SequencePhase::kWaiting) continue;  // it was the victim itself, and the next is at `i`
    if (sequence->phase == SequencePhase::kDecode && !waits) {
      plan->rows.push_back({sequence, sequence->num_cached, 1, true, {}});
    }
    ++i;
  }
  plan->num_decode_rows = static_cast<int32_t>(plan->rows.size());
}

void Scheduler::PlanPrefill(StepPlan* plan) {
  int32_t budget = options_.max_step_tokens - plan->num_decode_rows;
  StepWork work;
  work.num_decode_rows = plan->num_decode_rows;
  const bool beside = plan->num_decode_rows > 0;
  const double seconds = MaxStepSeconds(plan->num_decode_rows);
  const auto time_left = [&](int32_t begin) {
    if (!beside) return budget;
    return step_times_.MaxChunkTokens(work, begin, seconds);
  };
  // The first prompt always goes on, if only by a little.
  const auto has_room = [&] {
    return budget > 0 && (work.num_prefill_tokens == 0 || time_left(0) >= std::min(kMinFurtherChunkTokens, budget));
  };
  const auto plan_chunk = [&](Sequence* sequence) {
    const int32_t begin = sequence->num_cached, remaining = sequence->num_tokens() - begin;
    const int32_t most = beside ? std::min(budget, OneOfFewLengths(time_left(begin), options_.short_chunks)) : budget;
    const int32_t chunk = ChunkOf(begin, remaining, most);
    plan->rows.push_back({sequence, begin, chunk, chunk == remaining, {}});
    work.AddChunk(begin, chunk);
    budget = chunk < remaining ? 0 : budget - chunk;
  };
  for (Sequence* const sequence : running_) {
    if (!has_room()) return;
    if (sequence->phase == SequencePhase::kPrefill) plan_chunk(sequence);
  }
  // What was just taken from a sequence is not given back to it in the same step.
  if (plan->num_preempted > 0) return;
  while (has_room() && !waiting_.empty() && Admit(waiting_.Front(), plan)) {
    Sequence* const sequence = waiting_.Front();
    waiting_.PopFront();
    if (sequence->start_number == 0) sequence->start_number = ++num_started_;
    InsertByStart(sequence, &running_);
    plan_chunk(sequence);
  }
}

double Scheduler::MaxStepSeconds(int32_t num_decode_rows) const {
  const double gap = options_.max_token_gap_seconds;
  return kAimedShare * (gap > 0 ? gap : kMaxSlowdown * step_times_.DecodeSeconds(num_decode_rows));
}

void Scheduler::Learn(const StepPlan& plan, double seconds) {
  StepWork work;
  work.num_decode_rows = plan.num_decode_rows;
  for (size_t row = plan.num_decode_rows; row < plan.rows.size(); ++row) {
    work.AddChunk(plan.rows[row].begin, plan.rows[row].num_tokens);
  }
  step_times_.Add(work, seconds);
}

bool Scheduler::Admit(Sequence* sequence, StepPlan* plan) {
  if (num_running() >= options_.max_running) return false;
  // Looking up a long prompt at every step would cost milliseconds.
  const bool as_before = refusal_.sequence_id == sequence->id && pages_.num_free() <= refusal_.num_free &&
                         num_running() >= refusal_.num_running && !HasPage(refusal_.missing);
  if (as_before || !AdoptPages(sequence)) return false;
  const int32_t missing = PagesFor(sequence->num_tokens()) - static_cast<int32_t>(sequence->pages.size());
  if (missing + num_running() > pages_.num_free()) {
    refusal_ = {sequence->id, 0, num_running(), {}};
    // page_hashes begins with the root.
    const size_t next = sequence->pages.size() + 1;
    if (next < sequence->page_hashes.size()) refusal_.missing = sequence->page_hashes[next];
    pages_.Release(&sequence->pages);
    refusal_.num_free = pages_.num_free();
    return false;
  }
  refusal_ = Refusal();
  sequence->num_cached = static_cast<int32_t>(sequence->pages.size()) * kernels::kPageTokens;
  sequence->num_named_pages = static_cast<int32_t>(sequence->pages.size());
  sequence->first_sparse = std::numeric_limits<int32_t>::max();
  const bool first_sample = sequence->num_samples == 1 || sequence->id == sequence->first_sample_id;
  if (!sequence->page_hashes.empty() && first_sample) {
    plan->num_prefix_query_tokens += sequence->num_tokens();
    plan->num_prefix_hit_tokens += sequence->num_cached;
  }
  if (sequence->num_prompt_hit < 0) sequence->num_prompt_hit = sequence->num_cached;
  GrantPages(sequence, sequence->num_tokens());
  sequence->phase = SequencePhase::kPrefill;
  return true;
}

bool Scheduler::HasPage(const absl::optional<PageHash>& hash) const {
  std::vector<int32_t> found;
  if (hash.has_value()) prefix_cache_.Find(absl::MakeConstSpan(&*hash, 1), &found);
  return !found.empty();
}

bool Scheduler::AdoptPages(Sequence* sequence) {
  const Sequence* const other = OtherSample(*sequence);
  const int32_t of_prompt = (sequence->num_prompt_tokens() - 1) / kernels::kPageTokens;
  if (other != nullptr && other->num_cached < of_prompt * kernels::kPageTokens) return false;
  int32_t useful = (sequence->num_tokens() - 1) / kernels::kPageTokens;
  if (sequence->num_unscored() > 0) useful = std::min(useful, sequence->num_scored / kernels::kPageTokens);
  if (!sequence->page_hashes.empty()) {
    const auto known = absl::MakeConstSpan(sequence->page_hashes).subspan(1);
    prefix_cache_.Find(known.first(std::min<size_t>(known.size(), useful)), &sequence->pages);
  }
  const int32_t shared = std::min(useful, of_prompt);
  if (other != nullptr && static_cast<int32_t>(sequence->pages.size()) < shared) {
    sequence->pages.assign(other->pages.begin(), other->pages.begin() + shared);
  }
  for (const int32_t page : sequence->pages) pages_.Hold(page);
  return true;
}

const Sequence* Scheduler::OtherSample(const Sequence& sequence) const {
  if (sequence.num_samples == 1) return nullptr;
  const auto is_sample = [&](const Sequence* other) { return other->first_sample_id == sequence.first_sample_id; };
  const auto found = std::find_if(running_.begin(), running_.end(), is_sample);
  return found == running_.end() ? nullptr : *found;
}

void Scheduler::NamePages(Sequence* sequence, int32_t num_tokens) {
  std::vector<PageHash>& hashes = sequence->page_hashes;
  if (hashes.empty()) return;
  const int32_t full = std::min(num_tokens, sequence->first_sparse) / kernels::kPageTokens;
  for (; sequence->num_named_pages < full; ++sequence->num_named_pages) {
    const int32_t index = sequence->num_named_pages;
    if (static_cast<int32_t>(hashes.size()) == index + 1) {
      std::array<int32_t, kernels::kPageTokens> ids;
      for (int32_t i = 0; i < kernels::kPageTokens; ++i) ids[i] = sequence->token_id(index * kernels::kPageTokens + i);
      hashes.push_back(NextPageHash(hashes.back(), ids.data()));
    }
    const int32_t page = sequence->pages[index];
    if (prefix_cache_.Insert(hashes[index + 1], page)) pages_.SetKeep(page, true);
  }
}

void Scheduler::ForgetPages(const Sequence& sequence) {
  std::vector<int32_t> pages = sequence.pages;
  // Whoever has none any more may have left some; page_hashes begins with the root.
  const auto named = std::min<size_t>(sequence.page_hashes.size(), sequence.num_named_pages + 1);
  for (size_t i = 1; sequence.pages.empty() && i < named; ++i) {
    prefix_cache_.Find(absl::MakeConstSpan(&sequence.page_hashes[i], 1), &pages);
  }
  for (const int32_t page : pages) {
    prefix_cache_.Forget(page);
    pages_.SetKeep(page, false);
  }
}

bool Scheduler::GrantPages(Sequence* sequence, int32_t num_tokens) {
  const int32_t missing = PagesFor(num_tokens) - static_cast<int32_t>(sequence->pages.size());
  if (missing > 0 && !pages_.Allocate(missing, &sequence->pages, &reclaimed_)) return false;
  for (const int32_t page : reclaimed_) prefix_cache_.Forget(page);
  reclaimed_.clear();
  return true;
}

size_t Scheduler::Victim() const {
  std::map<absl::string_view, size_t> held;  // pages, by caller
  for (const Sequence* const sequence : running_) held[sequence->caller] += sequence->pages.size();
  size_t victim = 0, most = 0;
  for (size_t i = running_.size(); i-- > 1;) {
    const size_t callers = held[running_[i]->caller];
    if (callers <= most) continue;
    victim = i;
    most = callers;
  }
  return victim;
}

void Scheduler::Preempt(size_t victim, StepPlan* plan) {
  Sequence* const sequence = running_[victim];
  running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(victim));
  const auto is_its = [&](const PlanRow& row) { return row.sequence == sequence; };
  plan->rows.erase(std::remove_if(plan->rows.begin(), plan->rows.end(), is_its), plan->rows.end());
  pages_.Release(&sequence->pages);
  sequence->num_cached = 0;
  sequence->phase = SequencePhase::kWaiting;
  waiting_.PushPreempted(sequence);
  ++plan->num_preempted;
}

void Scheduler::Advance(const StepPlan& plan) {
  int32_t num_samples = 0;
  for (const PlanRow& row : plan.rows) {
    Sequence* const sequence = row.sequence;
    const int32_t sample = row.samples ? num_samples++ : -1;
    if (sequence->phase == SequencePhase::kOver) continue;
    sequence->num_cached = row.begin + row.num_tokens;
    if (row.retrieval.num_select > 0) sequence->first_sparse = std::min(sequence->first_sparse, row.begin);
    if (!row.samples) continue;
    ++sequence->num_pending;
    sequence->pending_sample = sample;
    sequence->phase = SequencePhase::kDecode;
  }
}

void Scheduler::Commit(const StepPlan& plan, const std::vector<SampledToken>& tokens) {
  size_t next = 0;
  for (const PlanRow& row : plan.rows) {
    Sequence* const sequence = row.sequence;
    const int32_t token_id = row.samples ? tokens[next++].token_id : kNoToken;
    if (sequence->phase == SequencePhase::kOver) {
      if (row.samples && token_id == kNoToken) ForgetPages(*sequence);
      continue;
    }
    // One that was preempted since has no pages.
    if (sequence->phase != SequencePhase::kWaiting) NamePages(sequence, row.begin + row.num_tokens);
    if (!row.samples) continue;
    --sequence->num_pending;
    if (token_id != kNoToken) {
      sequence->output_token_ids.push_back(token_id);
      WaitingLine::OnToken(sequence);
    } else {
      ForgetPages(*sequence);
    }
  }
  assert(next == tokens.size());
}

void Scheduler::Finish(Sequence* sequence) {
  pages_.Release(&sequence->pages);
  waiting_.Forget(sequence);
  if (sequence->phase != SequencePhase::kWaiting) {
    running_.erase(std::find(running_.begin(), running_.end(), sequence));
  }
  sequence->phase = SequencePhase::kOver;
}

int64_t Scheduler::prefill_tokens_left() const {
  int64_t num_tokens = 0;
  for (const Sequence* const sequence : running_) {
    if (sequence->phase == SequencePhase::kPrefill) num_tokens += sequence->num_tokens() - sequence->num_cached;
  }
  return num_tokens;
}

}  // namespace spotlight::engine
