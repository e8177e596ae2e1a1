// Ends calls whose client has stopped taking what is written to it.
//
// gRPC holds a write until the client's window has room for it: for ever, where a client keeps its connection alive and
// never reads. Neither keepalive ends that, nor a deadline that the client did not set.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <unordered_set>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/mutex.h"
#include "grpcpp/server_context.h"

namespace spotlight::server {

// Thread-safe. Outlives its calls.
class UnreadWatch {
 public:
  // `patience`: what a write may take; 0: for ever.
  explicit UnreadWatch(absl::Duration patience);
  ~UnreadWatch();
  UnreadWatch(const UnreadWatch&) = delete;
  UnreadWatch& operator=(const UnreadWatch&) = delete;

  // One call's side of it. WriteBegins and WriteEnds take turns, End comes last and while gRPC still has the call.
  class Call {
   public:
    Call(UnreadWatch* watch, grpc::CallbackServerContext* context);  // `watch` may be null: nothing is watched
    ~Call() { End().IgnoreError(); }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    void WriteBegins() { write_begin_ns_.store(NowNs(), std::memory_order_relaxed); }
    void WriteEnds() { write_begin_ns_.store(kNone, std::memory_order_relaxed); }
    // RESOURCE_EXHAUSTED: the watch has ended the call, with this status.
    absl::Status End();

   private:
    friend class UnreadWatch;
    static constexpr int64_t kNone = -1;

    UnreadWatch* watch_;
    grpc::CallbackServerContext* const context_;
    std::atomic<int64_t> write_begin_ns_{kNone};  // by the steady clock
    bool given_up_ = false;                       // under the watch's lock
  };

 private:
  static int64_t NowNs();
  absl::Status GivenUp() const;
  void Watch();
  void EndStuckCalls();

  const absl::Duration patience_;
  Mutex mutex_;
  CondVar stops_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::unordered_set<Call*> calls_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace spotlight::server
