// The server's certificate as both ports use it: each new connection is served with the one that is current then.
#pragma once

#include <memory>

#include "engine/mutex.h"
#include "grpcpp/security/server_credentials.h"
#include "openssl/ssl.h"
#include "server/security/server_certificate.h"

namespace spotlight::server {

// Thread-safe. Outlives the servers that use it. Set before they start. Connections that exist keep what they were
// made with.
class Tls {
 public:
  void Set(std::shared_ptr<const ServerCertificate> certificate);
  std::shared_ptr<const ServerCertificate> current() const;

  // For one port of one server. TLS 1.2 and 1.3. With client authorities in the current certificate, clients must
  // show a certificate that one of them signed; whether they must is settled here, which authorities may change.
  std::shared_ptr<grpc::ServerCredentials> GrpcCredentials();

  // A TLS server's context without a certificate of its own: each handshake takes the current one. Asks no client for
  // a certificate.
  void PrepareContext(SSL_CTX* context) const;

 private:
  static grpc_ssl_certificate_config_reload_status Fetch(void* tls, grpc_ssl_server_certificate_config** config);

  mutable Mutex mutex_;
  std::shared_ptr<const ServerCertificate> current_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const ServerCertificate> fetched_ ABSL_GUARDED_BY(mutex_);  // what gRPC has
};

}  // namespace spotlight::server
