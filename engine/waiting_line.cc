#include "engine/waiting_line.h"

#include <algorithm>
#include <cassert>

namespace spotlight::engine {
namespace {

constexpr int64_t kServiceOfAnswerToken = 2;
constexpr int32_t kOldestAge = 8;
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
  flow->waiting.push_back(sequence);
  sequence->flow = flow;
  ++priority_class.num_waiting;
  ++size_;
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
  preempted_.push_front(sequence);
  ++size_;
}

Sequence* WaitingLine::Front() {
  if (!preempted_.empty()) return preempted_.front();
  if (size_ == 0) return nullptr;
  bool aged = false;
  const auto next_class = NextClass(&aged);
  const bool overtaken = next_ != nullptr && !next_is_aged_ && next_class->first > next_->priority;
  if (next_ == nullptr || overtaken) {
    next_ = NextFlow(next_class->second)->waiting.front();
    next_is_aged_ = aged;
  }
  return next_;
}

WaitingLine::Classes::iterator WaitingLine::NextClass(bool* aged) {
  auto highest = classes_.end(), oldest = classes_.end();
  for (auto it = classes_.begin(); it != classes_.end(); ++it) {
    if (it->second.num_waiting == 0) continue;
    if (highest == classes_.end()) highest = it;
    if (it->second.age < kOldestAge) continue;
    if (oldest == classes_.end() || it->second.age > oldest->second.age) oldest = it;
  }
  *aged = oldest != classes_.end();
  return *aged ? oldest : highest;
}

CallerFlow* WaitingLine::NextFlow(const PriorityClass& priority_class) {
  CallerFlow* next = nullptr;
  for (const auto& [caller, flow] : priority_class.flows) {
    if (flow->waiting.empty()) continue;
    const bool before = next == nullptr || flow->service < next->service ||
                        (flow->service == next->service && flow->waiting.front()->id < next->waiting.front()->id);
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
  next_ = nullptr;
  CallerFlow* const flow = sequence->flow;
  PriorityClass& priority_class = classes_.at(flow->priority);
  assert(flow->waiting.front() == sequence);
  flow->waiting.pop_front();
  flow->service += sequence->num_tokens() - sequence->num_cached;
  ++flow->num_held;
  if (--priority_class.num_waiting == 0) priority_class.service = flow->service;
  Age(flow->priority);
}

void WaitingLine::Age(int32_t started_priority) {
  for (auto& [priority, priority_class] : classes_) {
    const bool ages = priority != started_priority && priority_class.num_waiting > 0;
    priority_class.age = ages ? priority_class.age + 1 : 0;
  }
}

void WaitingLine::OnToken(Sequence* sequence) {
  sequence->flow->service += kServiceOfAnswerToken;
}

void WaitingLine::Forget(Sequence* sequence) {
  CallerFlow* const flow = sequence->flow;
  const auto priority_class = classes_.find(flow->priority);
  assert(priority_class != classes_.end());
  if (next_ == sequence) next_ = nullptr;
  const auto waits = std::find(flow->waiting.begin(), flow->waiting.end(), sequence);
  if (waits != flow->waiting.end()) {
    flow->waiting.erase(waits);
    --size_;
    if (--priority_class->second.num_waiting == 0) priority_class->second.service = flow->service;
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
