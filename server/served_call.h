// What every call of the service has in common: its record, its caller's place, and the watch over what its client has
// still to take.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "grpcpp/server_context.h"
#include "server/call_record.h"
#include "server/open_calls.h"
#include "server/request_reads.h"
#include "server/security/authorizer.h"
#include "server/unread_watch.h"
#include "server/untaken_answers.h"
#include "server/worker_pool.h"

namespace spotlight::server {

// Owned by the service and outliving every call.
struct CallEnvironment {
  CallObserver on_end;
  // Runs everything that talks to gRPC on the engine's behalf: a write costs a system call, which the engine's thread
  // has no time for.
  WorkerPool* writers = nullptr;
  // What would hold up the streams that the writers serve: answers of megabytes, written out and freed.
  WorkerPool* large_answers = nullptr;
  // The trailer of a call that is about to end; null: none is sent.
  std::function<std::string(const CallRecord&)> load_report;
  OpenCalls* open_calls = nullptr;
  RequestReads* request_reads = nullptr;
  bool traced = false;  // records say where the caller's trace stands
  UnreadWatch* unread_watch = nullptr;
  UntakenAnswers* untaken_answers = nullptr;
};

// More than this in memory is made, and freed, by large_answers.
constexpr size_t kLargeAnswerBytes = 256 << 10;

// Used in the order Enter, Closing, Ended; thread-safe where a comment says so.
class ServedCall {
 public:
  ServedCall(const char* method, grpc::CallbackServerContext* context, const CallEnvironment* environment);

  // From now on the caller's place is held, if it has one.
  void Enter(Authorization authorization);
  // It is free at once, of a call that is refused: before the client knows.
  void GivePlaceBack() { authorization_.place = nullptr; }
  const Authorization& authorization() const { return authorization_; }
  // How the call ends, where its client takes all of it: else the record says what became of that.
  void SetStatus(absl::Status status) { record_.status = std::move(status); }

  // From OnCancel, on any thread.
  void Cancelled() { cancelled_.store(true); }
  bool cancelled() const { return cancelled_.load(); }  // thread-safe

  // Once, before the reactor's Finish: what goes with it, on the wire. The caller's place is free for its next call
  // where that is little, else when the client has taken it.
  void Closing(size_t num_bytes);
  // Around what the client must take for gRPC to go on; UnreadWatch ends a call that is between them too long.
  void WriteBegins() { unread_.WriteBegins(); }
  void WriteEnds() { unread_.WriteEnds(); }
  void Ended();  // from OnDone

  const CallRecord& record() const { return record_; }
  const CallEnvironment& environment() const { return *environment_; }

 protected:
  const CallEnvironment* const environment_;
  grpc::CallbackServerContext* const context_;  // until OnDone
  const std::chrono::steady_clock::time_point start_;
  CallRecord record_;

 private:
  Authorization authorization_;
  size_t untaken_bytes_ = 0;  // as UntakenAnswers counts them
  UnreadWatch::Call unread_;
  std::atomic<bool> cancelled_{false};
};

}  // namespace spotlight::server
