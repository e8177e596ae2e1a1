#include "server/security/server_certificate.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"

namespace spotlight::server {
namespace {

using BioPtr = std::unique_ptr<BIO, decltype(&BIO_free)>;

BioPtr Reader(const std::string& pem) {
  return BioPtr(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free);
}

// OpenSSL's own would ask on the terminal.
int NoPassword(char*, int, int, void*) {
  return -1;
}

// The oldest entry of this thread's error queue, which is emptied. Reasons are fixed texts: they quote no file.
std::string TakeReason() {
  const unsigned long error = ERR_get_error();
  const char* reason = ERR_reason_error_string(error);
  ERR_clear_error();
  return reason != nullptr ? reason : "not understood";
}

absl::Status Bad(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

absl::Time ToTime(const ASN1_TIME* time) {
  std::tm utc = {};
  return ASN1_TIME_to_tm(time, &utc) == 1 ? absl::FromTM(utc, absl::UTCTimeZone()) : absl::InfinitePast();
}

}  // namespace

std::vector<std::string> ServerCertificate::PathsOf(const TlsOptions& options) {
  std::vector<std::string> paths = {options.certificate_file, options.key_file};
  if (!options.client_ca_file.empty()) paths.push_back(options.client_ca_file);
  return paths;
}

absl::StatusOr<std::vector<ServerCertificate::X509Ptr>> ServerCertificate::ParseCertificates(const std::string& path,
                                                                                             const std::string& pem) {
  const BioPtr reader = Reader(pem);
  std::vector<X509Ptr> certificates;
  ERR_clear_error();
  while (X509* certificate = PEM_read_bio_X509(reader.get(), nullptr, NoPassword, nullptr)) {
    certificates.emplace_back(certificate);
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  const std::string reason = TakeReason();
  if (!at_end) return Bad(path, absl::StrCat("certificate ", certificates.size() + 1, ": ", reason));
  if (certificates.empty()) return Bad(path, "holds no certificate in PEM");
  return certificates;
}

absl::StatusOr<ServerCertificate::KeyPtr> ServerCertificate::ParseKey(const std::string& path, const std::string& pem) {
  ERR_clear_error();
  KeyPtr key(PEM_read_bio_PrivateKey(Reader(pem).get(), nullptr, NoPassword, nullptr));
  if (key != nullptr) return key;
  const bool encrypted = ERR_GET_REASON(ERR_peek_error()) == PEM_R_BAD_PASSWORD_READ ||
                         ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_BAD_PASSWORD_READ;
  ERR_clear_error();
  return Bad(path,
             encrypted ? "the key is encrypted; one without a password is needed" : "holds no private key in PEM");
}

absl::Status ServerCertificate::CheckPair(const TlsOptions& options) const {
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
  ERR_clear_error();
  if (SSL_CTX_use_certificate(context.get(), chain_[0].get()) != 1) return Bad(options.certificate_file, TakeReason());
  for (size_t i = 1; i < chain_.size(); ++i) {
    if (SSL_CTX_add1_chain_cert(context.get(), chain_[i].get()) != 1) {
      return Bad(options.certificate_file, TakeReason());
    }
  }
  if (SSL_CTX_use_PrivateKey(context.get(), key_.get()) != 1 || SSL_CTX_check_private_key(context.get()) != 1) {
    return Bad(options.key_file, absl::StrCat("is not the key of ", options.certificate_file, ": ", TakeReason()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const ServerCertificate>> ServerCertificate::Parse(
    const TlsOptions& options, const std::vector<std::string>& contents, absl::Time now) {
  std::shared_ptr<ServerCertificate> certificate(new ServerCertificate());
  auto chain = ParseCertificates(options.certificate_file, contents[0]);
  if (!chain.ok()) return chain.status();
  auto key = ParseKey(options.key_file, contents[1]);
  if (!key.ok()) return key.status();
  certificate->chain_ = *std::move(chain);
  certificate->key_ = *std::move(key);
  if (absl::Status status = certificate->CheckPair(options); !status.ok()) return status;
  certificate->not_after_ = ToTime(X509_get0_notAfter(certificate->chain_[0].get()));
  if (certificate->not_after_ <= now) {
    return Bad(
        options.certificate_file,
        absl::StrCat("expired at ", absl::FormatTime(absl::RFC3339_sec, certificate->not_after_, absl::UTCTimeZone())));
  }
  if (!options.client_ca_file.empty()) {
    const auto authorities = ParseCertificates(options.client_ca_file, contents[2]);
    if (!authorities.ok()) return authorities.status();
    certificate->client_ca_pem_ = contents[2];
  }
  certificate->chain_pem_ = contents[0];
  certificate->key_pem_ = contents[1];
  return std::shared_ptr<const ServerCertificate>(std::move(certificate));
}

bool ServerCertificate::Use(SSL* ssl) const {
  if (SSL_use_certificate(ssl, chain_[0].get()) != 1 || SSL_use_PrivateKey(ssl, key_.get()) != 1) return false;
  SSL_clear_chain_certs(ssl);
  for (size_t i = 1; i < chain_.size(); ++i) {
    if (SSL_add1_chain_cert(ssl, chain_[i].get()) != 1) return false;
  }
  return true;
}

}  // namespace spotlight::server
