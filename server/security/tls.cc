#include "server/security/tls.h"

#include <string>
#include <utility>

#include "grpc/grpc.h"
#include "grpc/grpc_security.h"

namespace spotlight::server {
namespace {

// gRPC's C++ API reloads through FileWatcherCertificateProvider only, which hands on whatever the files hold: after a
// file of garbage, or a certificate that came before its key, every handshake fails (seen with 1.51). The C API's
// fetcher keeps the old one then, and takes only what Parse has checked; this puts it behind the C++ type.
class FetchingCredentials final : public grpc::ServerCredentials {
 public:
  FetchingCredentials(grpc_ssl_client_certificate_request_type request,
                      grpc_ssl_server_certificate_config_callback fetch, void* tls)
      : credentials_(grpc_ssl_server_credentials_create_with_options(
            grpc_ssl_server_credentials_create_options_using_config_fetcher(request, fetch, tls))) {}
  ~FetchingCredentials() override { grpc_server_credentials_release(credentials_); }
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>& processor) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  grpc_server_credentials* const credentials_;
};

}  // namespace

void Tls::Set(std::shared_ptr<const ServerCertificate> certificate) {
  MutexLock lock(&mutex_);
  current_ = std::move(certificate);
}

std::shared_ptr<const ServerCertificate> Tls::current() const {
  MutexLock lock(&mutex_);
  return current_;
}

grpc_ssl_certificate_config_reload_status Tls::Fetch(void* tls, grpc_ssl_server_certificate_config** config) {
  Tls& self = *static_cast<Tls*>(tls);
  MutexLock lock(&self.mutex_);
  if (self.fetched_ == self.current_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
  self.fetched_ = self.current_;
  const ServerCertificate& certificate = *self.current_;
  const grpc_ssl_pem_key_cert_pair pair = {certificate.key_pem().c_str(), certificate.chain_pem().c_str()};
  // gRPC asserts that there are client authorities, and reads them; where no client is asked any certificate does.
  const std::string& client_ca =
      certificate.client_ca_pem().empty() ? certificate.chain_pem() : certificate.client_ca_pem();
  *config = grpc_ssl_server_certificate_config_create(client_ca.c_str(), &pair, 1);
  return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

std::shared_ptr<grpc::ServerCredentials> Tls::GrpcCredentials() {
  const auto request = current()->client_ca_pem().empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                                          : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
  return std::make_shared<FetchingCredentials>(request, Fetch, this);
}

void Tls::PrepareContext(SSL_CTX* context) const {
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  const auto use_current = [](SSL* ssl, void* tls) {
    return static_cast<const Tls*>(tls)->current()->Use(ssl) ? 1 : 0;
  };
  SSL_CTX_set_cert_cb(context, use_current, const_cast<Tls*>(this));
}

}  // namespace spotlight::server
