// The Generation service as plain calls: each blocks until it is done and returns absl::Status, whose google.rpc
// details error_details.h reads. Another thread ends a call through its Cancellation.
#pragma once

#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cancellation.h"
#include "grpcpp/channel.h"
#include "proto/spotlight/v1/generation.grpc.pb.h"

namespace spotlight::client {

// A plaintext channel to "HOST:PORT" or "unix:PATH", connected on first use. No message size limit (a prompt of a
// million tokens is one message), no HTTP proxy, keepalive through long prefills. Channels to the same server share a
// connection unless they want their own.
std::shared_ptr<grpc::Channel> CreateChannel(const std::string& server, bool own_connection = false);

struct CallOptions {
  absl::Duration deadline = absl::InfiniteDuration();  // counted from the start of the call
  Cancellation* cancellation = nullptr;                // not owned; null: only the deadline ends the call
};

// Thread-safe: calls may run at the same time.
class GenerateClient {
 public:
  explicit GenerateClient(std::shared_ptr<grpc::Channel> channel);

  // Ok once the server is connected. UNAVAILABLE with the reason after `timeout`, CANCELLED when cancelled before.
  absl::Status WaitForConnection(absl::Duration timeout, Cancellation* cancellation);

  // Calls `on_message` in this thread for each message; false from it cancels the call, which then returns CANCELLED.
  absl::Status GenerateStream(const v1::GenerateRequest& request, const CallOptions& options,
                              absl::FunctionRef<bool(const v1::GenerateStreamResponse&)> on_message);
  absl::StatusOr<v1::GenerateResponse> Generate(const v1::GenerateRequest& request, const CallOptions& options);
  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request, const CallOptions& options);
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request, const CallOptions& options);
  absl::Status Abort(const std::string& request_id, const CallOptions& options);
  absl::StatusOr<v1::GetModelInfoResponse> GetModelInfo(const CallOptions& options);
  absl::StatusOr<v1::GetServerInfoResponse> GetServerInfo(const CallOptions& options);
  absl::StatusOr<v1::GetLoadsResponse> GetLoads(const CallOptions& options);
  // grpc.health.v1: "SERVING" or another state's name. NOT_FOUND when the server knows no such service; "" is the
  // server as a whole.
  absl::StatusOr<std::string> CheckHealth(const std::string& service, const CallOptions& options);

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Generation::Stub> stub_;
};

}  // namespace spotlight::client
