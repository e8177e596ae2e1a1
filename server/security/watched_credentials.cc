#include "server/security/watched_credentials.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "server/security/server_certificate.h"
#include "server/security/token_file.h"

namespace spotlight::server {

absl::StatusOr<std::unique_ptr<FileWatch>> WatchCredentials(const SecurityOptions& options, Tls* tls,
                                                            Authorizer* authorizer, FileWatch::Observer observer) {
  std::vector<WatchedFiles> files;
  if (options.tls.enabled()) {
    const auto take = [options = options.tls, tls](const std::vector<std::string>& contents) {
      auto certificate = ServerCertificate::Parse(options, contents, absl::Now());
      if (certificate.ok()) tls->Set(*std::move(certificate));
      return certificate.status();
    };
    files.push_back({"certificate", ServerCertificate::PathsOf(options.tls), take});
  }
  if (!options.token_file.empty()) {
    const auto take = [path = options.token_file, authorizer](const std::vector<std::string>& contents) {
      const auto entries = ParseTokenFile(path, contents[0]);
      if (entries.ok()) authorizer->SetTokens(*entries);
      return entries.status();
    };
    files.push_back({"tokens", {options.token_file}, take});
  }
  return FileWatch::Start(std::move(files), options.reload_interval, std::move(observer));
}

}  // namespace spotlight::server
