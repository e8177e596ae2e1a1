#include "engine/request_queue.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/admission/retry_delay.h"

namespace spotlight::engine {

RequestQueue::RequestQueue(const QueueOptions& options) : options_(options) {}

Work WorkOf(const GenerateRequest& request, int64_t prompt_tokens, int32_t max_request_tokens) {
  const StoppingParams& stopping = request.stopping;
  const auto room = static_cast<int32_t>(std::max<int64_t>(1, max_request_tokens - prompt_tokens));
  Work work;
  work.prompt_tokens = prompt_tokens;
  work.num_samples = request.sampling.n;
  work.max_answer_tokens = std::min(stopping.max_tokens.value_or(room), room);
  const bool only_length_ends = stopping.ignore_eos && stopping.stop.empty() && stopping.stop_token_ids.empty();
  work.min_answer_tokens =
      only_length_ends ? work.max_answer_tokens : std::clamp(stopping.min_tokens, 1, work.max_answer_tokens);
  return work;
}

absl::Status RequestQueue::Reserve(const Reservation& reservation) {
  MutexLock lock(&mutex_);
  if (!closed_.ok()) return closed_;
  if (entries_.count(reservation.key) != 0) {
    return absl::AlreadyExistsError(absl::StrCat("request_id: \"", reservation.key.request_id, "\" is in use"));
  }
  const int32_t num_waiting = waiting_.total().num_requests;
  const int32_t num_free = options_.max_waiting_requests - num_waiting;
  if (num_free <= 0) {
    return Full(absl::StrCat("queue_requests: full, ", num_waiting, " requests wait, the bound is ",
                             options_.max_waiting_requests));
  }
  const int32_t callers = waiting_.Of(reservation.key.caller).num_requests;
  if (WaitingShares::IsFull(callers, num_free)) {
    return Full(absl::StrCat("caller_share: ", callers, " of the ", num_waiting,
                             " requests that wait are the caller's, the bound of all is ",
                             options_.max_waiting_requests));
  }
  entries_[reservation.key].reservation = reservation;
  waiting_.AddRequest(reservation.key.caller, reservation.priority, reservation.num_samples);
  ++num_in_flight_;
  return absl::OkStatus();
}

absl::Status RequestQueue::Full(absl::string_view message) const {
  absl::Status status = absl::ResourceExhaustedError(message);
  const double ends_per_second = rates_.Read().ends_per_second;
  if (ends_per_second == 0) return status;
  return WithRetryDelay(std::move(status), absl::Seconds(waiting_.total().num_samples / 2.0 / ends_per_second));
}

absl::Status RequestQueue::CheckDeadline(const RequestKey& key, const Work& work, absl::Duration now) const {
  const Rates rates = rates_.Read();
  MutexLock lock(&mutex_);
  const Reservation& reservation = entries_.at(key).reservation;
  if (reservation.deadline == absl::InfiniteDuration()) return absl::OkStatus();
  const WaitingAhead ahead =
      waiting_.Ahead(reservation.key.caller, reservation.priority, work.prompt_tokens, reservation.num_samples);
  return engine::CheckDeadline(rates, work, ahead, reservation.deadline - now);
}

absl::Status RequestQueue::ReserveTokens(const RequestKey& key, int64_t num_tokens) {
  MutexLock lock(&mutex_);
  Entry& entry = entries_.at(key);
  assert(entry.num_tokens == 0 && entry.waiting);
  const int64_t waiting_tokens = waiting_.total().num_tokens;
  if (waiting_tokens > 0 && waiting_tokens + num_tokens > options_.max_waiting_tokens) {
    return Full(absl::StrCat("queue_tokens: full, ", waiting_tokens, " prompt tokens wait, ", num_tokens,
                             " more exceed the bound of ", options_.max_waiting_tokens));
  }
  const int64_t callers = waiting_.Of(entry.reservation.key.caller).num_tokens;
  if (callers > 0 && WaitingShares::IsFull(callers, options_.max_waiting_tokens - waiting_tokens)) {
    return Full(absl::StrCat("caller_share: ", callers, " of the ", waiting_tokens,
                             " prompt tokens that wait are the caller's, the bound of all is ",
                             options_.max_waiting_tokens));
  }
  entry.num_tokens = num_tokens;
  waiting_.AddTokens(entry.reservation.key.caller, entry.reservation.priority, num_tokens);
  return absl::OkStatus();
}

void RequestQueue::Push(std::unique_ptr<Submission> submission) {
  MutexLock lock(&mutex_);
  Entry& entry = entries_.at(submission->request.key());
  entry.pushed = true;
  if (entry.cancellation.has_value()) arrivals_.cancellations.push_back(*entry.cancellation);
  arrivals_.submissions.push_back(std::move(submission));
  arrived_.NotifyOne();
}

absl::StatusOr<std::vector<RequestKey>> RequestQueue::Cancel(const std::string& request_id, CancelReason reason,
                                                             absl::Duration now, const CancelScope& scope) {
  std::vector<RequestKey> cancelled;
  MutexLock lock(&mutex_);
  for (auto entry = entries_.lower_bound({request_id, ""});
       entry != entries_.end() && entry->first.request_id == request_id; ++entry) {
    if (scope.submission != nullptr && scope.submission != entry->second.reservation.sink) continue;
    if (scope.caller.has_value() && *scope.caller != entry->first.caller) continue;
    CancelEntry(entry->first, &entry->second, reason, now);
    cancelled.push_back(entry->first);
  }
  if (!cancelled.empty()) return cancelled;
  return absl::NotFoundError(absl::StrCat("request_id: no request \"", request_id, "\" is running"));
}

bool RequestQueue::IsCancelled(const RequestKey& key) const {
  MutexLock lock(&mutex_);
  const auto found = entries_.find(key);
  return found != entries_.end() && found->second.cancellation.has_value();
}

void RequestQueue::Close(const absl::Status& status) {
  MutexLock lock(&mutex_);
  if (closed_.ok()) closed_ = status;
}

void RequestQueue::CancelAll(CancelReason reason, absl::Duration now) {
  MutexLock lock(&mutex_);
  for (auto& [key, entry] : entries_) CancelEntry(key, &entry, reason, now);
}

bool RequestQueue::WaitUntilIdle(absl::Duration timeout) const {
  const auto deadline =
      std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(std::min(timeout, absl::Hours(24 * 365)));
  MutexLock lock(&mutex_);
  while (num_in_flight_ > 0) {
    const auto left = deadline - std::chrono::steady_clock::now();
    if (left <= left.zero()) return false;
    idle_.WaitFor(&mutex_, std::chrono::duration_cast<std::chrono::nanoseconds>(left));
  }
  return true;
}

void RequestQueue::Take(Arrivals* arrivals) {
  arrivals->submissions.clear();
  arrivals->cancellations.clear();
  MutexLock lock(&mutex_);
  std::swap(*arrivals, arrivals_);
}

void RequestQueue::WaitForArrivals() {
  MutexLock lock(&mutex_);
  while (!woken_ && arrivals_.submissions.empty() && arrivals_.cancellations.empty()) arrived_.Wait(&mutex_);
  woken_ = false;
}

void RequestQueue::Wake() {
  MutexLock lock(&mutex_);
  woken_ = true;
  arrived_.NotifyOne();
}

void RequestQueue::MarkRunning(const RequestKey& key) {
  MutexLock lock(&mutex_);
  StopWaiting(&entries_.at(key));
}

void RequestQueue::Release(const RequestKey& key) {
  MutexLock lock(&mutex_);
  const auto found = entries_.find(key);
  assert(found != entries_.end());
  StopWaiting(&found->second);
  if (found->second.cancellation.has_value()) {
    // One that was not taken yet must not hit the key's next owner.
    auto& pending = arrivals_.cancellations;
    const auto is_its = [&](const Cancellation& c) { return c.key == key; };
    pending.erase(std::remove_if(pending.begin(), pending.end(), is_its), pending.end());
  }
  entries_.erase(found);
}

void RequestQueue::End() {
  MutexLock lock(&mutex_);
  if (--num_in_flight_ == 0) idle_.NotifyAll();
}

int32_t RequestQueue::num_waiting() const {
  MutexLock lock(&mutex_);
  return waiting_.total().num_requests;
}

int64_t RequestQueue::num_waiting_tokens() const {
  MutexLock lock(&mutex_);
  return waiting_.total().num_tokens;
}

absl::Status RequestQueue::closed() const {
  MutexLock lock(&mutex_);
  return closed_;
}

void RequestQueue::StopWaiting(Entry* entry) {
  if (!entry->waiting) return;
  entry->waiting = false;
  const Reservation& reservation = entry->reservation;
  waiting_.Remove(reservation.key.caller, reservation.priority, entry->num_tokens, reservation.num_samples);
}

void RequestQueue::CancelEntry(const RequestKey& key, Entry* entry, CancelReason reason, absl::Duration now) {
  if (entry->cancellation.has_value()) return;  // the first reason counts
  entry->cancellation = Cancellation{key, reason, now};
  if (!entry->pushed) return;  // Push passes it on
  arrivals_.cancellations.push_back(*entry->cancellation);
  arrived_.NotifyOne();
}

}  // namespace spotlight::engine
