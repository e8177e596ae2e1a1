// A running server with credentials in files, and what a test does to those files.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "httplib.h"
#include "server/security/sha256.h"
#include "tests/server/running_server.h"
#include "tests/testing/captured_log.h"
#include "tests/testing/certificates.h"
#include "tests/testing/temporary_folder.h"

namespace spotlight::server {

inline std::string TokenEntryJson(const std::string& name, const std::string& token, const std::string& scopes,
                                  const std::string& limits = "") {
  const Sha256Digest digest = Sha256(token);
  return absl::StrCat(
      R"({"name": ")", name, R"(", "sha256": ")",
      absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size())),
      R"(", "scopes": [)", scopes, "]", limits, "}");
}

inline std::string TokensJson(const std::string& entries) {
  return absl::StrCat("{\"tokens\": [", entries, "]}");
}

// Made before the server, whose options name its files.
struct CredentialFiles {
  spotlight::testing::TemporaryFolder folder;
  spotlight::testing::CertificateAuthority authority{"authority"};
  spotlight::testing::CertificateAuthority stranger{"stranger"};

  // Writes tls.crt and tls.key.
  void WriteCertificate(const std::string& common_name) const {
    const auto issued = const_cast<spotlight::testing::CertificateAuthority&>(authority).Issue({common_name});
    folder.Write("tls.key", issued.key_pem);
    folder.Write("tls.crt", issued.certificate_pem);
  }
  TlsOptions Tls(bool client_certificates) const {
    WriteCertificate("first");
    TlsOptions tls = {folder.Path("tls.crt"), folder.Path("tls.key"), ""};
    if (client_certificates) tls.client_ca_file = folder.Write("ca.crt", authority.pem());
    return tls;
  }
  std::shared_ptr<grpc::ChannelCredentials> Client(const spotlight::testing::IssuedCertificate& own = {}) const {
    return grpc::SslCredentials({authority.pem(), own.key_pem, own.certificate_pem});
  }
};

// The files are there before the server and after it.
class WithCredentialFiles {
 protected:
  CredentialFiles files_;
  spotlight::testing::CapturedLog log_;
};

class SecuredServer : protected WithCredentialFiles, public RunningServer {
 protected:
  using MakeOptions = std::function<SecurityOptions(const CredentialFiles&)>;

  explicit SecuredServer(const MakeOptions& options, const ServerOptions& others = {})
      : RunningServer(WithFastReload(options(files_), others), grpc::InsecureChannelCredentials()) {}

  static ServerOptions WithFastReload(SecurityOptions security, ServerOptions options = {}) {
    options.security = std::move(security);
    options.security.reload_interval = absl::Milliseconds(10);
    return options;
  }

  // -1: no such series.
  double Metric(const std::string& series) const {
    httplib::Client client("127.0.0.1", server_->http_port());
    const auto page = client.Get("/metrics");
    const size_t at = page ? page->body.find("\n" + series + " ") : std::string::npos;
    return at == std::string::npos ? -1 : std::stod(page->body.substr(at + series.size() + 2));
  }
  // Waits for it.
  bool MetricBecomes(const std::string& series, double value) const {
    for (int i = 0; i < 1000; ++i) {
      if (Metric(series) == value) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  }
  static std::string Reloads(const std::string& files, const std::string& outcome) {
    return absl::StrCat("spotlight_credential_reloads_total{model_name=\"fake\",files=\"", files, "\",outcome=\"",
                        outcome, "\"}");
  }
  bool ReloadsBecome(const std::string& files, const std::string& outcome, double value) const {
    return MetricBecomes(Reloads(files, outcome), value);
  }
};

}  // namespace spotlight::server
