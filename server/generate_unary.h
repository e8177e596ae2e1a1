// One unary generation call: collects what a stream would have sent, up to a bound; an answer that grows beyond it
// loses all, its request is cancelled, and the call ends with RESOURCE_EXHAUSTED. Ends as GenerateStream does: after
// the engine's OnFinish, on a thread of a pool, with gRPC's OnDone last.
#pragma once

#include <cstddef>
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
  void Overflow();
  void Reply();

  GenerateCall call_;
  grpc::ByteBuffer* const reply_;
  ReturnOptions wanted_;
  v1::GenerateResponse response_;
  size_t num_bytes_ = 0;  // of all deltas, in memory
  bool overflowed_ = false;
  bool cancel_posted_ = false;
  std::shared_ptr<GenerateUnary> self_;  // gRPC's reference
};

}  // namespace spotlight::server
