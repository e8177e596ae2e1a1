// A certificate chain, its key and the authorities of clients' certificates, checked before anything is served with
// them: what gRPC is given and refuses, it would serve nothing with.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "openssl/ssl.h"
#include "server/security/options.h"

namespace spotlight::server {

// Immutable.
class ServerCertificate {
 public:
  // `contents` in the order of PathsOf(options). Errors name the file: not PEM, an encrypted key, one of another
  // certificate, weaker than OpenSSL's security level, expired at `now`.
  static absl::StatusOr<std::shared_ptr<const ServerCertificate>> Parse(const TlsOptions& options,
                                                                        const std::vector<std::string>& contents,
                                                                        absl::Time now);
  static std::vector<std::string> PathsOf(const TlsOptions& options);

  const std::string& chain_pem() const { return chain_pem_; }
  const std::string& key_pem() const { return key_pem_; }
  const std::string& client_ca_pem() const { return client_ca_pem_; }  // empty: clients are not asked
  absl::Time not_after() const { return not_after_; }

  // For OpenSSL's certificate callback; false fails the handshake.
  bool Use(SSL* ssl) const;

 private:
  template <auto free>
  struct Free {
    template <class T>
    void operator()(T* object) const {
      free(object);
    }
  };
  using X509Ptr = std::unique_ptr<X509, Free<X509_free>>;
  using KeyPtr = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;

  ServerCertificate() = default;
  static absl::StatusOr<std::vector<X509Ptr>> ParseCertificates(const std::string& path, const std::string& pem);
  static absl::StatusOr<KeyPtr> ParseKey(const std::string& path, const std::string& pem);
  absl::Status CheckPair(const TlsOptions& options) const;

  std::string chain_pem_, key_pem_, client_ca_pem_;
  std::vector<X509Ptr> chain_;  // the server's own first
  KeyPtr key_;
  absl::Time not_after_;
};

}  // namespace spotlight::server
