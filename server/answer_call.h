// One call that is a question to the engine: gRPC's reactor and the call's record in one object, which deletes itself
// when gRPC lets go of it.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "google/protobuf/message.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/request_reactor.h"
#include "server/served_call.h"

namespace spotlight::server {

// Used by one thread at a time, but for what says otherwise.
class AnswerCall final : public RequestReactor {
 public:
  AnswerCall(const char* method, grpc::CallbackServerContext* context, const CallEnvironment* environment)
      : call_(method, context, environment) {}

  // Before what follows.
  void Enter(Authorization authorization) { call_.Enter(std::move(authorization)); }
  // Reads the request, and lets `answer` look at it, which calls Answer or Refuse.
  void Read(grpc::CallbackServerContext* context, std::function<void(grpc::ByteBuffer*)> answer);
  const std::string& caller() const { return call_.record().caller; }
  bool cancelled() const { return call_.cancelled(); }  // thread-safe

  // Once one of these, on any thread; this may be gone when it returns.
  void Answer(const google::protobuf::Message& response);
  void Refuse(const absl::Status& status) { End(status); }

  // grpc::ServerBidiReactor
  void OnCancel() override;
  void OnDone() override;

 private:
  void OnRequest(grpc::ByteBuffer* bytes) override { answer_(bytes); }
  void OnNoRequest(const absl::Status& status) override { Refuse(status); }
  void End(const absl::Status& status);

  ServedCall call_;
  std::function<void(grpc::ByteBuffer*)> answer_;
  grpc::ByteBuffer reply_;
};

}  // namespace spotlight::server
