#include "server/generate_service.h"

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/spotlight/v1/generation.pb.h"
#include "server/answer_call.h"
#include "server/generate_stream.h"
#include "server/generate_unary.h"
#include "server/grpc_status.h"
#include "server/proto_conversion.h"
#include "server/security/call_credentials.h"
#include "server/wire_message.h"
#include "version.h"

namespace spotlight::server {
namespace {

// One: a second wakes for half of a step's messages only to wait for the connection that the first writes to. Measured
// by benchmarks/streams:wire_overhead with 32 streams of the tiny model on two cores: 14 us of CPU a token, with
// two 19.
constexpr int kNumWriters = 1;
// An answer at its bound takes a third of a second.
constexpr int kNumLargeAnswerThreads = 1;
constexpr size_t kMaxQueuedTasks = 64 << 10;
// Encoding 128K tokens takes a third of a second; two at a time leave the cores to the engine.
constexpr int kNumEncoders = 2;

// The bytes are the call's until it ends, and nobody reads them again.
absl::Status TakeMessage(grpc::ByteBuffer* bytes, google::protobuf::Message* message) {
  const absl::Status status = ParseMessage(*bytes, message);
  bytes->Clear();
  return status;
}

// That a prompt is cached tells that somebody sent it. The length keeps names and salts apart: no two pairs make the
// same.
std::string CallersSalt(const std::string& caller, const std::string& salt) {
  return absl::StrCat(caller.size(), ":", caller, salt);
}

absl::Status Draining() {
  return absl::UnavailableError("the server is draining and takes no new requests");
}

}  // namespace

GenerateService::GenerateService(const Authorizer* authorizer, CallObserver on_call_end,
                                 std::function<std::string(const CallRecord&)> load_report,
                                 absl::Duration unread_patience, RequestReads* request_reads, bool traced,
                                 bool share_prefix_cache)
    : authorizer_(authorizer),
      share_prefix_cache_(share_prefix_cache),
      start_(std::chrono::system_clock::now()),
      unread_watch_(unread_patience),
      writers_(kNumWriters, kMaxQueuedTasks),
      large_answers_(kNumLargeAnswerThreads, kMaxQueuedTasks),
      encoders_(kNumEncoders, engine::WorkBounds()) {
  environment_.on_end = std::move(on_call_end);
  environment_.writers = &writers_;
  environment_.large_answers = &large_answers_;
  environment_.load_report = std::move(load_report);
  environment_.open_calls = &open_calls_;
  environment_.traced = traced;
  environment_.unread_watch = &unread_watch_;
  environment_.untaken_answers = &untaken_answers_;
  environment_.request_reads = request_reads;
  environment_.accept = [this](const Authorization& authorization, grpc::ByteBuffer* bytes) {
    return Accept(authorization, bytes);
  };
  using Context = grpc::CallbackServerContext;
  AddRawMethod("/spotlight.v1.Generation/Generate",
               [this](Context* context) { return Generate<GenerateUnary>(context); });
  AddRawMethod("/spotlight.v1.Generation/GenerateStream",
               [this](Context* context) { return Generate<GenerateStream>(context); });
  AddRawMethod("/spotlight.v1.Generation/Tokenize", [this](Context* context) { return Tokenize(context); });
  AddRawMethod("/spotlight.v1.Generation/Detokenize", [this](Context* context) { return Detokenize(context); });
  AddRawMethod("/spotlight.v1.Generation/Abort", [this](Context* context) { return Abort(context); });
  AddRawMethod("/spotlight.v1.Generation/GetModelInfo", [this](Context* context) { return GetModelInfo(context); });
  AddRawMethod("/spotlight.v1.Generation/GetServerInfo", [this](Context* context) { return GetServerInfo(context); });
  AddRawMethod("/spotlight.v1.Generation/GetLoads", [this](Context* context) { return GetLoads(context); });
}

void GenerateService::Serve(engine::Engine* engine, std::string libtorch_version) {
  libtorch_version_ = std::move(libtorch_version);
  engine_.store(engine, std::memory_order_release);
}

void GenerateService::Drain() {
  draining_.store(true);
  environment_.request_reads->EndAll(RequestReads::Room::kCallers, Draining());
}

absl::StatusOr<engine::Engine*> GenerateService::ReadyEngine() const {
  engine::Engine* engine = engine_.load(std::memory_order_acquire);
  if (engine == nullptr) return absl::UnavailableError("loading: the model is not there yet");
  return engine;
}

absl::StatusOr<AcceptedRequest> GenerateService::Accept(const Authorization& authorization,
                                                        grpc::ByteBuffer* bytes) const {
  engine::Engine* const engine = engine_.load(std::memory_order_acquire);  // the call was let in, so it is there
  v1::GenerateRequest request;
  if (absl::Status status = TakeMessage(bytes, &request); !status.ok()) return status;
  AcceptedRequest accepted;
  accepted.wanted = ToReturnOptions(request);
  auto converted = ToEngineRequest(&request, engine->model());
  if (!converted.ok()) return converted.status();
  const absl::Status allowed =
      authorizer_->AuthorizeRequest(authorization, {converted->priority, converted->sampling.n});
  if (!allowed.ok()) return allowed;
  if (authorization.caller.is_identified && !share_prefix_cache_) {
    converted->cache_salt = CallersSalt(authorization.caller.name, converted->cache_salt);
  }
  accepted.engine = engine;
  accepted.request = *std::move(converted);
  return accepted;
}

template <class Call>
RequestReactor* GenerateService::Generate(grpc::CallbackServerContext* context) {
  Authorization authorization = authorizer_->Authorize(CredentialsOf(*context), Scope::kGenerate, CallCost::kRequest);
  absl::Status status = authorization.status.ok() ? ReadyEngine().status() : authorization.status;
  if (status.ok() && draining_.load()) status = Draining();
  RequestReactor* const call = Call::Start(context, &environment_, std::move(authorization), status);
  // A drain that began meanwhile has not seen this one.
  if (status.ok() && draining_.load()) environment_.request_reads->EndAll(RequestReads::Room::kCallers, Draining());
  return call;
}

template <class Request, class Response>
RequestReactor* GenerateService::Answer(const char* method, Scope scope, grpc::CallbackServerContext* context,
                                        engine::FairWorkers* workers,
                                        std::function<absl::Status(engine::Engine*, Request*, Response*)> ask,
                                        std::function<absl::Status(const engine::Engine&, const Request&)> check) {
  auto* const call = new AnswerCall(method, context, &environment_);  // deletes itself
  const CallCost cost = scope == Scope::kGenerate ? CallCost::kRequest : CallCost::kFree;
  Authorization authorization = authorizer_->Authorize(CredentialsOf(*context), scope, cost);
  const auto engine = authorization.status.ok() ? ReadyEngine() : authorization.status;
  call->Enter(std::move(authorization));
  if (!engine.ok()) {
    call->Refuse(engine.status());
    return call;
  }
  call->Read(context, [call, context, engine = *engine, workers, ask = std::move(ask),
                       check = std::move(check)](grpc::ByteBuffer* bytes) {
    const auto request = std::make_shared<Request>();
    absl::Status status = TakeMessage(bytes, request.get());
    if (status.ok() && check != nullptr) status = check(*engine, *request);
    if (!status.ok()) return call->Refuse(status);
    const auto run = [call, engine, request, ask] {
      if (call->cancelled()) return call->Refuse(absl::CancelledError("cancelled before it was answered"));
      Response response;
      const absl::Status status = ask(engine, request.get(), &response);
      status.ok() ? call->Answer(response) : call->Refuse(status);
    };
    if (workers == nullptr) return run();
    const auto num_bytes = static_cast<int64_t>(request->SpaceUsedLong());
    status = workers->Post({"", CallerOf(call->caller(), *context), num_bytes, run});
    if (!status.ok()) call->Refuse(status);
  });
  return call;
}

RequestReactor* GenerateService::Tokenize(grpc::CallbackServerContext* context) {
  return Answer<v1::TokenizeRequest, v1::TokenizeResponse>(
      "Tokenize", Scope::kGenerate, context, &encoders_,
      [](engine::Engine* engine, v1::TokenizeRequest* request, v1::TokenizeResponse* response) {
        const auto prompt = ToEnginePrompt(request);
        if (!prompt.ok()) return prompt.status();
        const auto token_ids = engine->Tokenize(*prompt);
        if (!token_ids.ok()) return token_ids.status();
        response->mutable_token_ids()->Add(token_ids->begin(), token_ids->end());
        response->set_max_context_tokens(engine->model().max_context_tokens);
        return absl::OkStatus();
      },
      [](const engine::Engine& engine, const v1::TokenizeRequest& request) {
        return engine.CheckTextSize(request.text());
      });
}

RequestReactor* GenerateService::Detokenize(grpc::CallbackServerContext* context) {
  return Answer<v1::DetokenizeRequest, v1::DetokenizeResponse>(
      "Detokenize", Scope::kGenerate, context, &encoders_,
      [](engine::Engine* engine, v1::DetokenizeRequest* request, v1::DetokenizeResponse* response) {
        auto text = engine->Detokenize({request->token_ids().begin(), request->token_ids().end()});
        if (!text.ok()) return text.status();
        response->set_text(*std::move(text));
        return absl::OkStatus();
      },
      [](const engine::Engine& engine, const v1::DetokenizeRequest& request) {
        return CheckTokenIds(request.token_ids(), engine.model().max_context_tokens);
      });
}

RequestReactor* GenerateService::Abort(grpc::CallbackServerContext* context) {
  // Whose requests it may mean; Answer lets in who may ask at all.
  const Caller caller = authorizer_->Authorize(CredentialsOf(*context), Scope::kAny, CallCost::kFree).caller;
  engine::CancelScope scope;
  if (!caller.may_admin) scope.caller = CallerOf(caller.name, *context);
  return Answer<v1::AbortRequest, v1::AbortResponse>(
      "Abort", Scope::kAny, context, nullptr,
      [scope](engine::Engine* engine, v1::AbortRequest* request, v1::AbortResponse*) {
        if (request->request_id().empty()) return absl::InvalidArgumentError("request_id: must not be empty");
        return engine->Cancel(request->request_id(), engine::CancelReason::kAborted, scope);
      });
}

RequestReactor* GenerateService::GetModelInfo(grpc::CallbackServerContext* context) {
  return Answer<v1::GetModelInfoRequest, v1::GetModelInfoResponse>(
      "GetModelInfo", Scope::kAny, context, nullptr,
      [](engine::Engine* engine, v1::GetModelInfoRequest*, v1::GetModelInfoResponse* response) {
        SetModelInfo(engine->model(), engine->options().retrieval, response);
        return absl::OkStatus();
      });
}

RequestReactor* GenerateService::GetServerInfo(grpc::CallbackServerContext* context) {
  return Answer<v1::GetServerInfoRequest, v1::GetServerInfoResponse>(
      "GetServerInfo", Scope::kAny, context, nullptr,
      [this](engine::Engine* engine, v1::GetServerInfoRequest*, v1::GetServerInfoResponse* response) {
        SetServerInfo(*engine, response);
        return absl::OkStatus();
      });
}

RequestReactor* GenerateService::GetLoads(grpc::CallbackServerContext* context) {
  return Answer<v1::GetLoadsRequest, v1::GetLoadsResponse>(
      "GetLoads", Scope::kAny, context, nullptr,
      [](engine::Engine* engine, v1::GetLoadsRequest*, v1::GetLoadsResponse* response) {
        SetLoads(engine->Load(), response);
        return absl::OkStatus();
      });
}

void GenerateService::SetServerInfo(const engine::Engine& engine, v1::GetServerInfoResponse* reply) const {
  using Seconds = std::chrono::duration<double>;
  const engine::EngineOptions& options = engine.options();
  reply->set_version(kVersion);
  reply->set_libtorch_version(libtorch_version_);
  reply->set_start_unix_seconds(Seconds(start_.time_since_epoch()).count());
  reply->set_uptime_seconds(Seconds(std::chrono::system_clock::now() - start_).count());
  reply->set_kv_cache_tokens(int64_t{options.scheduler.num_pages} * kernels::kPageTokens);
  reply->set_page_tokens(kernels::kPageTokens);
  reply->set_max_running_requests(options.scheduler.max_running);
  reply->set_max_step_tokens(options.scheduler.max_step_tokens);
  reply->set_max_waiting_requests(options.queue.max_waiting_requests);
  reply->set_max_waiting_tokens(options.queue.max_waiting_tokens);
  reply->set_prefix_cache(options.scheduler.prefix_cache);
}

}  // namespace spotlight::server
