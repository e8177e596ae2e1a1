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
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "server/call_record.h"
#include "server/generate_call.h"
#include "server/open_calls.h"
#include "server/raw_service.h"
#include "server/request_reads.h"
#include "server/security/authorizer.h"
#include "server/served_call.h"
#include "server/unread_watch.h"
#include "server/untaken_answers.h"
#include "server/worker_pool.h"

namespace spotlight::server {

// Thread-safe. Outlives every call.
class GenerateService final : public RawService {
 public:
  // `authorizer` and `request_reads` outlive every call. `load_report` makes the trailer of the generation calls; null:
  // none. A client may leave what is written to it for `unread_patience` (unread_watch.h). `traced`: records say where
  // the caller's trace stands. `share_prefix_cache`: also among callers that are identified.
  GenerateService(const Authorizer* authorizer, CallObserver on_call_end,
                  std::function<std::string(const CallRecord&)> load_report, absl::Duration unread_patience,
                  RequestReads* request_reads, bool traced, bool share_prefix_cache);

  // From now on calls are served; before, they get UNAVAILABLE. `engine` outlives every call.
  void Serve(engine::Engine* engine, std::string libtorch_version);

  // Refuses generations from now on, those as well whose request is not whole yet.
  void Drain();

  // Until no generation call is open, or the time has come.
  void WaitForCalls(std::chrono::steady_clock::time_point deadline) { open_calls_.WaitUntilNone(deadline); }

 private:
  absl::StatusOr<engine::Engine*> ReadyEngine() const;
  absl::StatusOr<AcceptedRequest> Accept(const Authorization& authorization, grpc::ByteBuffer* bytes) const;

  // The methods.
  template <class Call>
  RequestReactor* Generate(grpc::CallbackServerContext* context);
  RequestReactor* Tokenize(grpc::CallbackServerContext* context);
  RequestReactor* Detokenize(grpc::CallbackServerContext* context);
  RequestReactor* Abort(grpc::CallbackServerContext* context);
  RequestReactor* GetModelInfo(grpc::CallbackServerContext* context);
  RequestReactor* GetServerInfo(grpc::CallbackServerContext* context);
  RequestReactor* GetLoads(grpc::CallbackServerContext* context);

  void SetServerInfo(const engine::Engine& engine, v1::GetServerInfoResponse* reply) const;

  // The calls that are one question to the engine: authorize, read, parse, check, ask, reply. `workers` runs `ask`
  // where it may take long; `check` sees what must not wait for them.
  template <class Request, class Response>
  RequestReactor* Answer(const char* method, Scope scope, grpc::CallbackServerContext* context,
                         engine::FairWorkers* workers,
                         std::function<absl::Status(engine::Engine*, Request*, Response*)> ask,
                         std::function<absl::Status(const engine::Engine&, const Request&)> check = nullptr);

  const Authorizer* const authorizer_;
  std::atomic<engine::Engine*> engine_{nullptr};
  std::atomic<bool> draining_{false};
  std::string libtorch_version_;  // written before engine_
  const bool share_prefix_cache_;
  const std::chrono::system_clock::time_point start_;
  OpenCalls open_calls_;
  UnreadWatch unread_watch_;
  UntakenAnswers untaken_answers_;
  WorkerPool writers_;
  WorkerPool large_answers_;
  engine::FairWorkers encoders_;
  GenerateEnvironment environment_;
};

}  // namespace spotlight::server
