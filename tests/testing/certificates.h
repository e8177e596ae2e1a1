// Certificates made on the spot, signed by an authority that lives as long as the test.
#pragma once

#include <memory>
#include <string>

#include "openssl/ssl.h"

namespace spotlight::testing {

struct CertificateSpec {
  std::string common_name;
  std::string alternative_names = "DNS:localhost,IP:127.0.0.1";
  int valid_from_seconds = -60;  // from now
  int valid_to_seconds = 3600;
};

struct IssuedCertificate {
  std::string certificate_pem;
  std::string key_pem;
};

// Thread-compatible.
class CertificateAuthority {
 public:
  explicit CertificateAuthority(const std::string& common_name);

  const std::string& pem() const { return pem_; }
  IssuedCertificate Issue(const CertificateSpec& spec);

 private:
  std::shared_ptr<EVP_PKEY> key_;
  std::shared_ptr<X509> certificate_;
  std::string pem_;
};

// The key behind a password.
std::string Encrypted(const std::string& key_pem, const std::string& password);

}  // namespace spotlight::testing
