// The order in which waiting sequences start: priorities first, callers of one priority in turn, a caller's own first
// come, first served. Sequences that were preempted go before all others.
//
// Callers share by the virtual token counter (Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024). A
// caller's counter is the service it got: 1 for a prompt token that is computed, charged when its sequence starts, 2
// for a generated one. The waiting caller with the smallest counter is next; one that begins to wait is lifted to the
// smallest counter among those that wait, so that to have been away earns nothing. No place stays empty while anyone
// waits. Bound: the counters of callers that wait differ by at most U = 2 max(L, 2 M), L the longest prompt and M the
// tokens that the running sequences may generate together; so over any time in which two callers both wait, one gets
// at most 2 U more service than the other, however many requests either sends.
//
// Priorities are strict but for one start in nine, which goes to what waits below the highest: there callers take
// turns, whatever their priorities, each with what it sent first. So of m callers that wait below the highest, each
// gets at least one start in 9 m, and to send in many priorities earns nothing.
//
// Which sequence is next stays so until it starts or leaves, though it waits for pages and others would fit (else a
// large one might wait for ever); only a higher priority goes before it, unless it is next by that turn.
//
// Once a request's first sample has started, eight of its others are next, whatever comes: a client that reads one
// stream would wait between its samples for strangers, else. (In the bound above L is a request's prompt times its
// samples.) Below the highest priority each counts as one of the starts in nine: there a caller gets one in 81 m at the
// least.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "engine/sequence.h"

namespace spotlight::engine {

// One caller's part of one priority.
struct CallerFlow {
  std::string caller;
  int32_t priority = 0;
  std::map<uint64_t, Sequence*> waiting;  // by id: in the order they came
  int64_t service = 0;                    // the counter
  int32_t num_held = 0;                   // sequences that started and are not over
};

// Engine thread only. Sequences are the caller's.
class WaitingLine {
 public:
  // sequence->caller and ->priority say where.
  void Push(Sequence* sequence);
  // It ran, lost its pages, and goes first; of several the one that first started before the others.
  void PushPreempted(Sequence* sequence);
  // The next to start; null: nothing waits.
  Sequence* Front();
  // Front() has started. Charges what its pages do not hold of its prompt.
  void PopFront();
  // It generated a token.
  static void OnToken(Sequence* sequence);
  // It is over, in whatever phase it is.
  void Forget(Sequence* sequence);

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

 private:
  struct PriorityClass {
    std::unordered_map<std::string, std::unique_ptr<CallerFlow>> flows;
    int32_t num_waiting = 0;
    int64_t service = 0;  // to which a newcomer is lifted when nobody waits
  };
  using Classes = std::map<int32_t, PriorityClass, std::greater<int32_t>>;  // the highest first

  // Of a caller with something waiting, in whatever priority.
  struct Turn {
    int64_t last = 0;  // the number of its latest start below the highest priority, or of the one before it came
    int32_t num_waiting = 0;
  };

  CallerFlow* FlowOf(Sequence* sequence, PriorityClass* priority_class);
  // Of the highest priority that waits; null: nothing does.
  const PriorityClass* Highest() const;
  static CallerFlow* NextFlow(const PriorityClass& priority_class);
  // Whose turn it is below the highest priority; null: nothing waits there, or it is not yet time.
  CallerFlow* NextBelow() const;
  void CountStart(const CallerFlow& flow);
  void StopWaiting(Sequence* sequence, PriorityClass* priority_class);
  void DropIdle(Classes::iterator priority_class, CallerFlow* flow);

  std::deque<Sequence*> preempted_;
  Classes classes_;
  std::unordered_map<std::string, Turn> turns_;  // by caller
  int64_t num_starts_ = 0;
  // Starts since the latest that went below the highest priority, while something waited there; less what that one's
  // other samples took.
  int32_t num_passed_over_ = 0;
  Sequence* next_ = nullptr;  // chosen and not yet started
  bool next_is_below_ = false;
  // 0: next_ is the first sample of its request to start; i: the i-th of the others, which follow it.
  int32_t num_following_ = 0;
  size_t size_ = 0;
};

}  // namespace spotlight::engine
