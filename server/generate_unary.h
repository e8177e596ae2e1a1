// One unary generation call: collects what a stream would have sent, up to a bound; an answer that grows beyond it
// loses all, its request is cancelled, and the call ends with RESOURCE_EXHAUSTED. Ends as GenerateStream does: after
// the engine's OnFinish, on a thread of a pool, with gRPC's OnDone last.
#pragma once

#include <cstddef>
#include <memory>

#include "engine/response_sink.h"
#include "grpcpp/support/byte_buffer.h"
#include "proto/spotlight/v1/generation.pb.h"
#include "server/generate_call.h"
#include "server/request_reactor.h"

namespace spotlight::server {

// Thread-safe: the sink's calls come one at a time, and what they touch is read only after the last of them.
class GenerateUnary final : public RequestReactor,
                            public engine::ResponseSink,
                            public std::enable_shared_from_this<GenerateUnary> {
 public:
  // As GenerateStream's.
  static GenerateUnary* Start(grpc::CallbackServerContext* context, const GenerateEnvironment* environment,
                              Authorization authorization, const absl::Status& refused);

  GenerateUnary(grpc::CallbackServerContext* context, const GenerateEnvironment* environment)
      : environment_(environment), call_("Generate", context, environment) {}

  // engine::ResponseSink
  void OnPrompt(int32_t prompt_tokens) override;
  void OnDelta(engine::Delta delta) override;
  void OnSampleFinish(engine::Finish finish) override;
  void OnFinish(engine::Finish finish) override;

  // grpc::ServerBidiReactor
  void OnCancel() override;
  void OnDone() override;

 private:
  void OnRequest(grpc::ByteBuffer* bytes) override;
  void OnNoRequest(const absl::Status& status) override;
  void Overflow();
  void Reply();

  const GenerateEnvironment* const environment_;
  GenerateCall call_;
  grpc::ByteBuffer reply_;  // gRPC's from Reply to OnDone
  ReturnOptions wanted_;
  v1::GenerateResponse response_;
  size_t num_bytes_ = 0;  // of all deltas, in memory
  bool overflowed_ = false;
  bool cancel_posted_ = false;
  std::shared_ptr<GenerateUnary> self_;  // gRPC's reference
};

}  // namespace spotlight::server
