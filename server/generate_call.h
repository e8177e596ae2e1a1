// What the streaming and the unary generation call have in common: the request on its way to the engine, and the
// client's going away.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "engine/engine.h"
#include "grpcpp/server_context.h"
#include "server/proto_conversion.h"
#include "server/security/authorizer.h"
#include "server/served_call.h"

namespace spotlight::server {

// Who a call counts as where callers share: `name`, its token's, or where it shows none the machine it comes from.
std::string CallerOf(const std::string& name, const grpc::CallbackServerContext& context);

struct AcceptedRequest {
  engine::Engine* engine = nullptr;
  engine::GenerateRequest request;
  ReturnOptions wanted;
  Authorization authorization;
};

// Used in the order Submit or Refused, Finished, Closing, Ended; thread-safe where a comment says so.
class GenerateCall : public ServedCall {
 public:
  GenerateCall(const char* method, grpc::CallbackServerContext* context, const CallEnvironment* environment);

  // Hands the request to the engine. After OK, the sink will get OnFinish.
  absl::Status Submit(AcceptedRequest accepted, std::shared_ptr<engine::ResponseSink> sink);

  // From OnCancel, on any thread: tells the engine, unless the request was refused or has ended. Never hits another
  // request that has its id by now.
  void Cancel();

  void set_caller(const std::string& name) { record_.caller = name; }  // of a call that is refused unread
  void Finished(engine::Finish finish);
  // As ServedCall's, with the load report.
  void Closing(size_t num_bytes);
  void Ended();  // from OnDone

 private:
  engine::CancelReason ReasonOfCancel() const;

  const std::chrono::system_clock::time_point arrival_;
  const std::chrono::system_clock::time_point deadline_;
  engine::Engine* engine_ = nullptr;                  // null: refused
  const engine::ResponseSink* submission_ = nullptr;  // outlives this
  std::atomic<bool> finished_{false};
};

}  // namespace spotlight::server
