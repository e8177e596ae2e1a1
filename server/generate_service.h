// spotlight.v1.Generation: each call is parsed, handed to the engine, and answered.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/fair_workers.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "proto/spotlight/v1/generation.grpc.pb.h"
#include "server/call_record.h"
#include "server/generate_call.h"
#include "server/open_calls.h"
#include "server/security/authorizer.h"
#include "server/served_call.h"
#include "server/unread_watch.h"
#include "server/untaken_answers.h"
#include "server/worker_pool.h"

namespace spotlight::server {

// Every method raw (bytes in, bytes out): see wire_message.h.
using RawGenerationService = v1::Generation::WithRawCallbackMethod_Generate<
    v1::Generation::WithRawCallbackMethod_GenerateStream<v1::Generation::WithRawCallbackMethod_Tokenize<
        v1::Generation::WithRawCallbackMethod_Detokenize<v1::Generation::WithRawCallbackMethod_Abort<
            v1::Generation::WithRawCallbackMethod_GetModelInfo<v1::Generation::WithRawCallbackMethod_GetServerInfo<
                v1::Generation::WithRawCallbackMethod_GetLoads<v1::Generation::Service>>>>>>>>;

// Thread-safe. Outlives every call.
class GenerateService final : public RawGenerationService {
 public:
  // `authorizer` outlives every call. `load_report` makes the trailer of the generation calls; null: none. A client may
  // leave what is written to it for `unread_patience` (unread_watch.h). `traced`: records say where the caller's trace
  // stands. `share_prefix_cache`: also among callers that are identified.
  GenerateService(const Authorizer* authorizer, CallObserver on_call_end,
                  std::function<std::string(const CallRecord&)> load_report, absl::Duration unread_patience,
                  bool traced, bool share_prefix_cache);

  // From now on calls are served; before, they get UNAVAILABLE. `engine` outlives every call.
  void Serve(engine::Engine* engine, std::string libtorch_version);

  // Until no generation call is open, or the time has come.
  void WaitForCalls(std::chrono::steady_clock::time_point deadline) { open_calls_.WaitUntilNone(deadline); }

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* reply) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateStream(grpc::CallbackServerContext* context,
                                                             const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* Abort(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* GetLoads(grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* reply) override;

 private:
  absl::StatusOr<engine::Engine*> ReadyEngine() const;
  absl::StatusOr<AcceptedRequest> Accept(const Authorization& authorization, const grpc::ByteBuffer* request) const;
  void SetServerInfo(const engine::Engine& engine, v1::GetServerInfoResponse* reply) const;

  // The calls that are one question to the engine: authorize, parse, check, ask, reply. `workers` runs `ask` where it
  // may take long; `check` sees what must not wait for them.
  template <class Request, class Response>
  grpc::ServerUnaryReactor* Answer(const char* method, Scope scope, grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* bytes, grpc::ByteBuffer* reply, engine::FairWorkers* workers,
                                   std::function<absl::Status(engine::Engine*, Request*, Response*)> ask,
                                   std::function<absl::Status(const engine::Engine&, const Request&)> check = nullptr);

  const Authorizer* const authorizer_;
  std::atomic<engine::Engine*> engine_{nullptr};
  std::string libtorch_version_;  // written before engine_
  const bool share_prefix_cache_;
  const std::chrono::system_clock::time_point start_;
  OpenCalls open_calls_;
  UnreadWatch unread_watch_;
  UntakenAnswers untaken_answers_;
  WorkerPool writers_;
  WorkerPool large_answers_;
  engine::FairWorkers encoders_;
  CallEnvironment environment_;
};

}  // namespace spotlight::server
