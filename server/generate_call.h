// What the streaming and the unary generation call have in common: the request on its way to the engine, the client's
// going away, and the record of the end.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "engine/engine.h"
#include "grpcpp/server_context.h"
#include "server/call_record.h"
#include "server/open_calls.h"
#include "server/proto_conversion.h"
#include "server/security/authorizer.h"
#include "server/unread_watch.h"
#include "server/worker_pool.h"

namespace spotlight::server {

// Owned by the service and outliving every call.
struct CallEnvironment {
  CallObserver on_end;
  // Runs everything that talks to gRPC on the engine's behalf: a write costs a system call, which the engine's thread
  // has no time for.
  WorkerPool* writers = nullptr;
  // The trailer of a call that is about to end; null: none is sent.
  std::function<std::string(const CallRecord&)> load_report;
  OpenCalls* open_calls = nullptr;
  bool traced = false;  // records say where the caller's trace stands
  UnreadWatch* unread_watch = nullptr;
};

// Who a call counts as where callers share: `name`, its token's, or where it shows none the machine it comes from.
std::string CallerOf(const std::string& name, const grpc::CallbackServerContext& context);

struct AcceptedRequest {
  engine::Engine* engine = nullptr;
  engine::GenerateRequest request;
  ReturnOptions wanted;
  Authorization authorization;
};

// Thread-safe where a comment says so, else used in the order Submit, Finished, Ended.
class GenerateCall {
 public:
  GenerateCall(const char* method, grpc::CallbackServerContext* context, const CallEnvironment* environment);

  // Hands the request to the engine. After OK, the sink will get OnFinish.
  absl::Status Submit(AcceptedRequest accepted, std::shared_ptr<engine::ResponseSink> sink);

  // From OnCancel, on any thread: tells the engine, unless the request was refused or has ended. Never hits another
  // request that has its id by now.
  void Cancel();
  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }  // thread-safe

  void Refused(absl::Status status) { record_.status = std::move(status); }
  void set_caller(const std::string& name) { record_.caller = name; }  // of a call that is refused unread
  void Finished(engine::Finish finish);
  // Once, before the reactor's Finish: the load report, and the caller's place is free for its next call.
  void Closing();
  // Around what the client must take for gRPC to go on; UnreadWatch ends a call that is between them too long.
  void WriteBegins() { unread_.WriteBegins(); }
  void WriteEnds() { unread_.WriteEnds(); }
  void Ended();  // from OnDone

  const CallRecord& record() const { return record_; }
  const CallEnvironment& environment() const { return *environment_; }

 private:
  engine::CancelReason ReasonOfCancel() const;

  const CallEnvironment* const environment_;
  grpc::CallbackServerContext* const context_;  // until OnDone
  const std::chrono::steady_clock::time_point start_;
  const std::chrono::system_clock::time_point arrival_;
  const std::chrono::system_clock::time_point deadline_;
  engine::Engine* engine_ = nullptr;                  // null: refused
  const engine::ResponseSink* submission_ = nullptr;  // outlives this
  CallRecord record_;
  CallerQuota::Place place_;
  UnreadWatch::Call unread_;
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> finished_{false};
};

}  // namespace spotlight::server
