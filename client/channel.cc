#include "client/channel.h"

#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "client/service_config.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"
#include "grpcpp/support/client_interceptor.h"

namespace spotlight::client {
namespace {

// gRPC's own credentials refuse to send a token over a plaintext connection, be it to this machine.
class BearerToken final : public grpc::experimental::Interceptor {
 public:
  explicit BearerToken(const std::string* authorization) : authorization_(authorization) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace("authorization", *authorization_);
    }
    methods->Proceed();
  }

 private:
  const std::string* const authorization_;
};

class BearerTokenFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit BearerTokenFactory(const std::string& token) : authorization_("Bearer " + token) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(grpc::experimental::ClientRpcInfo*) override {
    return new BearerToken(&authorization_);  // gRPC deletes it
  }

 private:
  const std::string authorization_;
};

std::shared_ptr<grpc::ChannelCredentials> TlsCredentials(const ChannelSecurity& security) {
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = security.ca_pem;
  options.pem_cert_chain = security.certificate_pem;
  options.pem_private_key = security.key_pem;
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::SslCredentials(options);
  if (security.token.empty()) return credentials;
  return grpc::CompositeChannelCredentials(credentials, grpc::AccessTokenCredentials(security.token));
}

// Replicas come and go faster than the half minute that gRPC lets pass between two questions for a name's addresses.
constexpr int kMinResolutionIntervalMs = 2000;
// What a call that may be sent again is kept for: the largest request that a server takes, 16 MB, and its metadata. By
// default gRPC keeps 256 KB, and gives up retrying what is larger.
constexpr int kRetryBufferBytes = 17 << 20;

grpc::ChannelArguments Arguments() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetInt(GRPC_ARG_MAX_METADATA_SIZE, 1 << 20);  // error details of many fields travel as metadata
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // gRPC 1.51's bandwidth estimate now and then stalls a message of megabytes for 10 s (1 in 80 on a busy machine): a
  // fixed window for what the server sends, as the server has for prompts.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4 << 20);
  // A server that just starts is found soon after it listens. (The minimum stays at its 20 s: it bounds the attempt
  // itself, and a TLS handshake with a busy or distant server takes longer than a retry.)
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  // A long prefill sends nothing: pings find a dead peer. Servers refuse pings that come faster than 10 s.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  return arguments;
}

}  // namespace

bool NamesReplicas(absl::string_view target) {
  return absl::StartsWith(target, "dns:") || absl::StartsWith(target, "ipv4:") || absl::StartsWith(target, "ipv6:");
}

std::shared_ptr<grpc::Channel> CreateChannel(const std::string& server, bool own_connection,
                                             const ChannelSecurity& security) {
  grpc::ChannelArguments arguments = Arguments();
  if (NamesReplicas(server)) {
    arguments.SetServiceConfigJSON(kServiceConfigJson);
    arguments.SetInt(GRPC_ARG_PER_RPC_RETRY_BUFFER_SIZE, kRetryBufferBytes);
    arguments.SetInt(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, kMinResolutionIntervalMs);
  }
  if (own_connection) arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (security.tls) {
    if (!security.server_name.empty()) arguments.SetSslTargetNameOverride(security.server_name);
    return grpc::CreateCustomChannel(server, TlsCredentials(security), arguments);
  }
  if (security.token.empty()) {
    return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
  }
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(std::make_unique<BearerTokenFactory>(security.token));
  return grpc::experimental::CreateCustomChannelWithInterceptors(server, grpc::InsecureChannelCredentials(), arguments,
                                                                 std::move(interceptors));
}

}  // namespace spotlight::client
