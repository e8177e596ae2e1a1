#include "engine/waiting_line.h"

#include <algorithm>
#include <cassert>

namespace spotlight::engine {
namespace {

constexpr int64_t kServiceOfAnswerToken = 2;
constexpr int32_t kStartsOfHighest = 8;
constexpr int32_t kMostFollowing = 8;
// Callers that are away and have had more than their share; beyond this the account of the least is closed.
constexpr size_t kMaxFlows = 1024;

bool IsIdle(const CallerFlow& flow) {
  return flow.waiting.empty() && flow.num_held == 0;
}

}  // namespace

void WaitingLine::Push(Sequence* sequence) {
  PriorityClass& priority_class = classes_[sequence->priority];
  CallerFlow* const flow = FlowOf(sequence, &priority_class);
  if (flow->waiting.empty()) {
    const CallerFlow* const least = NextFlow(priority_class);
    flow->service = std::max(flow->service, least != nullptr ? least->service : priority_class.service);
  }
  flow->waiting.emplace(sequence->id, sequence);
  sequence->flow = flow;
  ++priority_class.num_waiting;
  ++size_;
  const auto turn = turns_.emplace(sequence->caller, Turn{num_starts_, 0}).first;
  ++turn->second.num_waiting;
}

CallerFlow* WaitingLine::FlowOf(Sequence* sequence, PriorityClass* priority_class) {
  auto& flows = priority_class->flows;
  const auto found = flows.find(sequence->caller);
  if (found != flows.end()) return found->second.get();
  if (flows.size() >= kMaxFlows) {
    auto least = flows.end();
    for (auto flow = flows.begin(); flow != flows.end(); ++flow) {
      if (!IsIdle(*flow->second)) continue;
      if (least == flows.end() || flow->second->service < least->second->service) least = flow;
    }
    if (least != flows.end()) flows.erase(least);
  }
  auto flow = std::make_unique<CallerFlow>();
  flow->caller = sequence->caller;
  flow->priority = sequence->priority;
  return flows.emplace(sequence->caller, std::move(flow)).first->second.get();
}

void WaitingLine::PushPreempted(Sequence* sequence) {
  InsertByStart(sequence, &preempted_);
  ++size_;
}

Sequence* WaitingLine::Front() {
  if (!preempted_.empty()) return preempted_.front();
  const PriorityClass* const highest = Highest();
  if (highest == nullptr) return nullptr;
  if (next_ != nullptr && num_following_ > 0) return next_;
  CallerFlow* const below = NextBelow();
  const CallerFlow* const flow = below != nullptr ? below : NextFlow(*highest);
  const bool overtaken = next_ != nullptr && !next_is_below_ && flow->priority > next_->priority;
  if (next_ == nullptr || overtaken) {
    next_ = flow->waiting.begin()->second;
    next_is_below_ = below != nullptr;
    num_following_ = 0;
  }
  return next_;
}

const WaitingLine::PriorityClass* WaitingLine::Highest() const {
  for (const auto& [priority, priority_class] : classes_) {
    if (priority_class.num_waiting > 0) return &priority_class;
  }
  return nullptr;
}

CallerFlow* WaitingLine::NextBelow() const {
  if (num_passed_over_ < kStartsOfHighest) return nullptr;
  const PriorityClass* const highest = Highest();
  CallerFlow* next = nullptr;
  int64_t next_turn = 0;
  for (const auto& [priority, priority_class] : classes_) {
    if (&priority_class == highest || priority_class.num_waiting == 0) continue;
    for (const auto& [caller, flow] : priority_class.flows) {
      if (flow->waiting.empty()) continue;
      const int64_t turn = turns_.at(caller).last;
      const bool before = next == nullptr || turn < next_turn ||
                          (turn == next_turn && flow->waiting.begin()->first < next->waiting.begin()->first);
      if (!before) continue;
      next = flow.get();
      next_turn = turn;
    }
  }
  return next;
}

CallerFlow* WaitingLine::NextFlow(const PriorityClass& priority_class) {
  CallerFlow* next = nullptr;
  for (const auto& [caller, flow] : priority_class.flows) {
    if (flow->waiting.empty()) continue;
    const bool before = next == nullptr || flow->service < next->service ||
                        (flow->service == next->service && flow->waiting.begin()->first < next->waiting.begin()->first);
    if (before) next = flow.get();
  }
  return next;
}

void WaitingLine::PopFront() {
  Sequence* const sequence = Front();
  assert(sequence != nullptr);
  --size_;
  if (!preempted_.empty()) {
    preempted_.pop_front();
    return;
  }
  CallerFlow* const flow = sequence->flow;
  CountStart(*flow);
  flow->service += sequence->num_tokens() - sequence->num_cached;
  ++flow->num_held;
  StopWaiting(sequence, &classes_.at(flow->priority));
  const auto other = flow->waiting.upper_bound(sequence->id);
  const bool follows = sequence->num_samples > 1 && num_following_ < kMostFollowing && other != flow->waiting.end() &&
                       other->second->first_sample_id == sequence->first_sample_id;
  num_following_ = follows ? num_following_ + 1 : 0;
  next_ = follows ? other->second : nullptr;
}

void WaitingLine::CountStart(const CallerFlow& flow) {
  const PriorityClass& priority_class = classes_.at(flow.priority);
  ++num_starts_;
  if (&priority_class != Highest()) {
    num_passed_over_ = num_following_ > 0 ? num_passed_over_ - kStartsOfHighest : 0;
    turns_.at(flow.caller).last = num_starts_;
  } else if (priority_class.num_waiting < static_cast<int32_t>(size_) + 1) {
    ++num_passed_over_;
  } else {
    num_passed_over_ = 0;
  }
}

void WaitingLine::StopWaiting(Sequence* sequence, PriorityClass* priority_class) {
  CallerFlow* const flow = sequence->flow;
  flow->waiting.erase(sequence->id);
  if (--priority_class->num_waiting == 0) priority_class->service = flow->service;
  const auto turn = turns_.find(flow->caller);
  if (--turn->second.num_waiting == 0) turns_.erase(turn);
}

void WaitingLine::OnToken(Sequence* sequence) {
  sequence->flow->service += kServiceOfAnswerToken;
}

void WaitingLine::Forget(Sequence* sequence) {
  CallerFlow* const flow = sequence->flow;
  const auto priority_class = classes_.find(flow->priority);
  assert(priority_class != classes_.end());
  if (next_ == sequence) next_ = nullptr;
  if (flow->waiting.count(sequence->id) != 0) {
    --size_;
    StopWaiting(sequence, &priority_class->second);
  } else {
    --flow->num_held;
    const auto preempted = std::find(preempted_.begin(), preempted_.end(), sequence);
    if (preempted != preempted_.end()) {
      preempted_.erase(preempted);
      --size_;
    }
  }
  sequence->flow = nullptr;
  DropIdle(priority_class, flow);
}

void WaitingLine::DropIdle(Classes::iterator priority_class, CallerFlow* flow) {
  if (!IsIdle(*flow)) return;
  // Its counter is kept while it is above what a newcomer starts with.
  const CallerFlow* const least = NextFlow(priority_class->second);
  const int64_t floor = least != nullptr ? least->service : priority_class->second.service;
  auto& flows = priority_class->second.flows;
  if (flow->service <= floor) flows.erase(flow->caller);
  const auto is_idle = [](const auto& entry) { return IsIdle(*entry.second); };
  if (std::all_of(flows.begin(), flows.end(), is_idle)) classes_.erase(priority_class);
}

}  // namespace spotlight::engine
