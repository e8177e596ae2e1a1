// What the streaming and the unary generation call have in common: the request on its way to the engine, and the
// client's going away.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
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
};

// Parses a request and checks it; empties `bytes`.
using RequestAcceptor = std::function<absl::StatusOr<AcceptedRequest>(const Authorization&, grpc::ByteBuffer* bytes)>;

// Owned by the service and outliving every call.
struct GenerateEnvironment : CallEnvironment {
  RequestAcceptor accept;
};

// Used in the order Enter, Submit or none, Finished, Closing, Ended; thread-safe where a comment says so.
class GenerateCall : public ServedCall {
 public:
  GenerateCall(const char* method, grpc::CallbackServerContext* context, const CallEnvironment* environment);

  // Hands the request to the engine. After OK, the sink will get OnFinish.
  absl::Status Submit(AcceptedRequest accepted, std::shared_ptr<engine::ResponseSink> sink);

  // From OnCancel, on any thread: tells the engine, unless the request was refused or has ended. Never hits another
  // request that has its id by now.
  void Cancel();

  void Finished(engine::Finish finish);
  // As ServedCall's, with the load report.
  void Closing(size_t num_bytes);
  void Ended();  // from OnDone

 private:
  engine::CancelReason ReasonOfCancel() const;
  void CancelInEngine();

  const std::chrono::system_clock::time_point arrival_;
  const std::chrono::system_clock::time_point deadline_;
  engine::Engine* engine_ = nullptr;
  const engine::ResponseSink* submission_ = nullptr;  // outlives this
  std::atomic<bool> submitted_{false};                // the engine has it; what it is cancelled by was set before
  std::atomic<bool> finished_{false};
};

}  // namespace spotlight::server
