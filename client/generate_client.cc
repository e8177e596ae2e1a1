#include "client/generate_client.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error_details.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"
#include "grpcpp/support/sync_stream.h"

namespace spotlight::client {
namespace {

void SetDeadline(absl::Duration deadline, grpc::ClientContext* context) {
  // A century is forever, and does not overflow the clock.
  if (deadline > absl::Hours(24 * 365 * 100)) return;
  context->set_deadline(std::chrono::system_clock::now() + absl::ToChronoNanoseconds(deadline));
}

// One unary call: `call` is the stub's method.
template <typename Response, typename Call>
absl::StatusOr<Response> Unary(const CallOptions& options, Call call) {
  grpc::ClientContext context;
  SetDeadline(options.deadline, &context);
  const Cancellation::Scope scope(options.cancellation, &context);
  Response response;
  absl::Status status = FromGrpcStatus(call(&context, &response));
  if (!status.ok()) return status;
  return response;
}

}  // namespace

std::shared_ptr<grpc::Channel> CreateChannel(const std::string& server, bool own_connection) {
  grpc::ChannelArguments arguments;
  if (own_connection) arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetInt(GRPC_ARG_MAX_METADATA_SIZE, 1 << 20);  // error details of many fields travel as metadata
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // gRPC 1.51's bandwidth estimate now and then stalls a message of megabytes for 10 s (1 in 80 on a busy machine): a
  // fixed window for what the server sends, as the server has for prompts.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4 << 20);
  // A server that just starts is found soon after it listens.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // Also the bound of one attempt: a distant or busy server needs more than a moment for its handshake.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 10000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // A long prefill sends nothing: pings find a dead peer. Servers refuse pings that come faster than 10 s.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
}

GenerateClient::GenerateClient(std::shared_ptr<grpc::Channel> channel)
    : channel_(std::move(channel)), stub_(v1::Generation::NewStub(channel_)) {}

absl::Status GenerateClient::WaitForConnection(absl::Duration timeout, Cancellation* cancellation) {
  const absl::Time end = absl::Now() + timeout;
  // Nothing wakes WaitForConnected early, so a cancel is seen between two short waits.
  for (absl::Time now = absl::Now(); now < end; now = absl::Now()) {
    const absl::Duration slice = std::min(end - now, absl::Milliseconds(50));
    if (channel_->WaitForConnected(std::chrono::system_clock::now() + absl::ToChronoNanoseconds(slice))) {
      return absl::OkStatus();
    }
    if (cancellation != nullptr && cancellation->cancelled()) return absl::CancelledError("cancelled while connecting");
  }
  // The channel keeps the reason to itself; a call that does not wait gets told.
  CallOptions options;
  options.deadline = absl::Milliseconds(100);
  options.cancellation = cancellation;
  const absl::StatusOr<v1::GetLoadsResponse> probe = GetLoads(options);
  if (probe.ok()) return absl::OkStatus();
  if (absl::IsUnavailable(probe.status()) || absl::IsCancelled(probe.status())) return probe.status();
  if (absl::IsDeadlineExceeded(probe.status())) return absl::UnavailableError("no answer to the connection attempt");
  return absl::OkStatus();  // something answers; the call itself will say what it thinks
}

absl::Status GenerateClient::GenerateStream(const v1::GenerateRequest& request, const CallOptions& options,
                                            absl::FunctionRef<bool(const v1::GenerateStreamResponse&)> on_message) {
  grpc::ClientContext context;
  SetDeadline(options.deadline, &context);
  const Cancellation::Scope scope(options.cancellation, &context);
  const std::unique_ptr<grpc::ClientReader<v1::GenerateStreamResponse>> reader =
      stub_->GenerateStream(&context, request);
  v1::GenerateStreamResponse message;
  bool wanted = true;
  while (wanted && reader->Read(&message)) wanted = on_message(message);
  if (wanted) return FromGrpcStatus(reader->Finish());
  context.TryCancel();
  while (reader->Read(&message)) {
  }
  reader->Finish();  // perhaps OK, when the last message was already under way
  return absl::CancelledError("the receiver wants no more");
}

absl::StatusOr<v1::GenerateResponse> GenerateClient::Generate(const v1::GenerateRequest& request,
                                                              const CallOptions& options) {
  return Unary<v1::GenerateResponse>(
      options, [&](auto* context, auto* response) { return stub_->Generate(context, request, response); });
}

absl::StatusOr<v1::TokenizeResponse> GenerateClient::Tokenize(const v1::TokenizeRequest& request,
                                                              const CallOptions& options) {
  return Unary<v1::TokenizeResponse>(
      options, [&](auto* context, auto* response) { return stub_->Tokenize(context, request, response); });
}

absl::StatusOr<v1::DetokenizeResponse> GenerateClient::Detokenize(const v1::DetokenizeRequest& request,
                                                                  const CallOptions& options) {
  return Unary<v1::DetokenizeResponse>(
      options, [&](auto* context, auto* response) { return stub_->Detokenize(context, request, response); });
}

absl::Status GenerateClient::Abort(const std::string& request_id, const CallOptions& options) {
  v1::AbortRequest request;
  request.set_request_id(request_id);
  return Unary<v1::AbortResponse>(
             options, [&](auto* context, auto* response) { return stub_->Abort(context, request, response); })
      .status();
}

absl::StatusOr<v1::GetModelInfoResponse> GenerateClient::GetModelInfo(const CallOptions& options) {
  return Unary<v1::GetModelInfoResponse>(
      options, [&](auto* context, auto* response) { return stub_->GetModelInfo(context, {}, response); });
}

absl::StatusOr<v1::GetServerInfoResponse> GenerateClient::GetServerInfo(const CallOptions& options) {
  return Unary<v1::GetServerInfoResponse>(
      options, [&](auto* context, auto* response) { return stub_->GetServerInfo(context, {}, response); });
}

absl::StatusOr<v1::GetLoadsResponse> GenerateClient::GetLoads(const CallOptions& options) {
  return Unary<v1::GetLoadsResponse>(
      options, [&](auto* context, auto* response) { return stub_->GetLoads(context, {}, response); });
}

absl::StatusOr<std::string> GenerateClient::CheckHealth(const std::string& service, const CallOptions& options) {
  const std::unique_ptr<grpc::health::v1::Health::Stub> stub = grpc::health::v1::Health::NewStub(channel_);
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  const absl::StatusOr<grpc::health::v1::HealthCheckResponse> response = Unary<grpc::health::v1::HealthCheckResponse>(
      options, [&](auto* context, auto* response) { return stub->Check(context, request, response); });
  if (!response.ok()) return response.status();
  return grpc::health::v1::HealthCheckResponse::ServingStatus_Name(response->status());
}

}  // namespace spotlight::client
