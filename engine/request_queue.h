// The hand-off from the threads that submit to the engine thread: requests in order of arrival, and cancellations.
//
// It is the engine's door as well: it counts what waits, from Reserve until MarkRunning, wherever the request is (being
// encoded, queued, or with the scheduler), and refuses what would exceed the bounds or a caller's share of them
// (admission/waiting_shares.h), and what cannot end by its deadline (admission/deadline.h). A refusal for want of room
// says after which time half of the queue will have drained, where that was measured (admission/retry_delay.h).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "engine/admission/deadline.h"
#include "engine/admission/service_rates.h"
#include "engine/admission/waiting_shares.h"
#include "engine/cancel_reason.h"
#include "engine/cancel_scope.h"
#include "engine/mutex.h"
#include "engine/options.h"
#include "engine/page_hash.h"
#include "engine/request.h"
#include "engine/response_sink.h"

namespace spotlight::engine {

// An accepted request on its way to the scheduler.
struct Submission {
  GenerateRequest request;  // sampling resolved, the seed drawn; the prompt moved out once it is encoded
  std::vector<int32_t> prompt_token_ids;
  std::vector<int32_t> distinct_prompt_token_ids;  // with a repetition penalty; else empty
  std::vector<PageHash> page_hashes;               // of the prompt's pages; empty: the prefix cache is not for it
  std::string prompt_text;                         // with echo
  std::shared_ptr<ResponseSink> sink;
  absl::Duration accepted;  // by the engine's clock
  absl::Status status;      // not OK: it could not be encoded, and only has to be finished
};

struct Cancellation {
  RequestKey key;
  CancelReason reason = CancelReason::kClientGone;
  absl::Duration time;  // by the engine's clock
};

struct Arrivals {
  std::vector<std::unique_ptr<Submission>> submissions;
  std::vector<Cancellation> cancellations;
};

// What the door knows of a request before its prompt is encoded.
struct Reservation {
  explicit Reservation(RequestKey request_key) : key(std::move(request_key)) {}

  RequestKey key;
  int32_t priority = 0;
  int32_t num_samples = 1;
  absl::Duration deadline = absl::InfiniteDuration();  // by the engine's clock
  const ResponseSink* sink = nullptr;                  // tells submissions with the same id apart
};

// What a request asks for, of a prompt of `prompt_tokens` tokens (a lower bound, before it is encoded).
Work WorkOf(const GenerateRequest& request, int64_t prompt_tokens, int32_t max_request_tokens);

// Thread-safe.
class RequestQueue {
 public:
  explicit RequestQueue(const QueueOptions& options);

  // A place for a request, before any work is done for it. ALREADY_EXISTS: the id is in use; RESOURCE_EXHAUSTED: too
  // many wait; the status given to Close once closed. After OK: Push, or Release and End.
  absl::Status Reserve(const Reservation& reservation);
  // Whether it can end by its deadline. RESOURCE_EXHAUSTED or DEADLINE_EXCEEDED. Before ReserveTokens.
  absl::Status CheckDeadline(const RequestKey& key, const Work& work, absl::Duration now) const;
  // Its prompt's tokens. RESOURCE_EXHAUSTED: too many wait, unless no others do: a prompt larger than the bound passes
  // alone. To be called once, before Push.
  absl::Status ReserveTokens(const RequestKey& key, int64_t num_tokens);
  void Push(std::unique_ptr<Submission> submission);
  // Of the requests of this id that `scope` names. Returns which; NOT_FOUND when none is in flight.
  absl::StatusOr<std::vector<RequestKey>> Cancel(const std::string& request_id, CancelReason reason, absl::Duration now,
                                                 const CancelScope& scope = CancelScope());
  // A cancelled request need not be encoded.
  bool IsCancelled(const RequestKey& key) const;
  // Refuses with `status` from now on. Of several calls the first counts.
  void Close(const absl::Status& status);
  void CancelAll(CancelReason reason, absl::Duration now);
  // Waits until nothing is in flight; false when the time ran out.
  bool WaitUntilIdle(absl::Duration timeout) const;

  // What came since the last call, in order; a cancellation never comes before its submission.
  void Take(Arrivals* arrivals);
  // Returns at once when there is something to take or Wake was called since the last wait.
  void WaitForArrivals();
  void Wake();
  // It no longer counts as waiting.
  void MarkRunning(const RequestKey& key);
  // It is over: its id and its place are free.
  void Release(const RequestKey& key);
  // After Release, when its sink has heard of it: it is no longer in flight.
  void End();

  // Written by the engine thread.
  ServiceRates* rates() { return &rates_; }

  int32_t num_waiting() const;
  int64_t num_waiting_tokens() const;
  absl::Status closed() const;

 private:
  struct Entry {
    Reservation reservation{RequestKey()};
    int64_t num_tokens = 0;
    bool waiting = true;
    bool pushed = false;
    absl::optional<Cancellation> cancellation;
  };
  void StopWaiting(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CancelEntry(const RequestKey& key, Entry* entry, CancelReason reason, absl::Duration now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Status Full(absl::string_view message) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const QueueOptions options_;
  ServiceRates rates_;
  mutable Mutex mutex_;
  mutable CondVar arrived_;
  mutable CondVar idle_;
  absl::Status closed_ ABSL_GUARDED_BY(mutex_);
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  int32_t num_in_flight_ ABSL_GUARDED_BY(mutex_) = 0;  // reserved and not yet ended
  WaitingShares waiting_ ABSL_GUARDED_BY(mutex_);
  Arrivals arrivals_ ABSL_GUARDED_BY(mutex_);
  std::map<RequestKey, Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spotlight::engine
