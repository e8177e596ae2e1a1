// One call that is a question to the engine: gRPC's reactor and the call's record in one object, which deletes itself
// when gRPC lets go of it.
#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "google/protobuf/message.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/served_call.h"

namespace spotlight::server {

// Used by one thread at a time, but for what says otherwise.
class AnswerCall final : public grpc::ServerUnaryReactor {
 public:
  // gRPC owns `reply`.
  AnswerCall(const char* method, grpc::CallbackServerContext* context, const CallEnvironment* environment,
             grpc::ByteBuffer* reply)
      : call_(method, context, environment), reply_(reply) {}

  // Before Answer or Refuse.
  void Enter(Authorization authorization) { call_.Enter(std::move(authorization)); }
  const std::string& caller() const { return call_.record().caller; }
  bool cancelled() const { return call_.cancelled(); }  // thread-safe

  // Once one of these, on any thread; this may be gone when it returns.
  void Answer(const google::protobuf::Message& response);
  void Refuse(const absl::Status& status) { End(status); }

  // grpc::ServerUnaryReactor
  void OnCancel() override { call_.Cancelled(); }
  void OnDone() override;

 private:
  void End(const absl::Status& status);

  ServedCall call_;
  grpc::ByteBuffer* const reply_;
};

}  // namespace spotlight::server
