// One unary generation call: collects what a stream would have sent. Ends as GenerateStream does: after the engine's
// OnFinish, on a writer thread, with gRPC's OnDone last.
#pragma once

#include <memory>

#include "engine/response_sink.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "proto/spotlight/v1/generation.pb.h"
#include "server/generate_call.h"

namespace spotlight::server {

// Thread-safe: the sink's calls come one at a time, and what they touch is read only after the last of them.
class GenerateUnary final : public grpc::ServerUnaryReactor,
                            public engine::ResponseSink,
                            public std::enable_shared_from_this<GenerateUnary> {
 public:
  // Both return the reactor to hand to gRPC, which owns `reply`.
  static GenerateUnary* Start(grpc::CallbackServerContext* context, const CallEnvironment* environment,
                              AcceptedRequest accepted, grpc::ByteBuffer* reply);
  static GenerateUnary* Refuse(grpc::CallbackServerContext* context, const CallEnvironment* environment,
                               const std::string& caller, const absl::Status& status);

  GenerateUnary(grpc::CallbackServerContext* context, const CallEnvironment* environment, grpc::ByteBuffer* reply)
      : call_("Generate", context, environment), reply_(reply) {}

  // engine::ResponseSink
  void OnPrompt(int32_t prompt_tokens) override;
  void OnDelta(engine::Delta delta) override;
  void OnSampleFinish(engine::Finish finish) override;
  void OnFinish(engine::Finish finish) override;

  // grpc::ServerUnaryReactor
  void OnCancel() override { call_.Cancel(); }
  void OnDone() override;

 private:
  void RefuseWith(const absl::Status& status);
  void Reply();

  GenerateCall call_;
  grpc::ByteBuffer* const reply_;
  ReturnOptions wanted_;
  v1::GenerateResponse response_;
  std::shared_ptr<GenerateUnary> self_;  // gRPC's reference
};

}  // namespace spotlight::server
