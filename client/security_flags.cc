#include "client/security_flags.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace spotlight::client {
namespace {

absl::Status ReadFile(absl::string_view flag, const std::string& path, std::string* text) {
  if (path.empty()) return absl::OkStatus();
  errno = 0;
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    return absl::InvalidArgumentError(absl::StrCat("--", flag, " ", path, ": is a folder"));
  }
  std::ifstream file(path, std::ios::binary);
  text->assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  if (!file || text->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", flag, " ", path, ": ", errno != 0 ? std::strerror(errno) : "is empty"));
  }
  return absl::OkStatus();
}

bool IsLoopback(absl::string_view server) {
  const std::string host(server.substr(0, server.rfind(':')));
  in_addr address;
  const bool is_loopback = inet_pton(AF_INET, host.c_str(), &address) == 1 && (ntohl(address.s_addr) >> 24) == 127;
  return is_loopback || host == "localhost" || host == "[::1]";
}

// Of this machine: nobody on the network listens.
bool IsLocal(absl::string_view server) {
  if (absl::StartsWith(server, "unix:")) return true;
  // A name server decides where "dns:" leads.
  if (!absl::ConsumePrefix(&server, "ipv4:") && !absl::ConsumePrefix(&server, "ipv6:")) return IsLoopback(server);
  const std::vector<absl::string_view> servers = absl::StrSplit(server, ',');
  return std::all_of(servers.begin(), servers.end(), IsLoopback);
}

}  // namespace

std::vector<Option> SecurityFlags::Options() {
  const auto file = [](std::string* target) { return [target](std::string path) { *target = std::move(path); }; };
  return {Switch("tls", "encrypt the connection; the server's certificate must be one that the system trusts",
                 [this] { tls = true; }),
          Text("tls-ca", "FILE", "authorities to trust instead of the system's, PEM; turns on --tls", file(&ca_file)),
          Text("tls-cert", "FILE", "the client's own certificate, PEM, for servers that ask for one; turns on --tls",
               file(&certificate_file)),
          Text("tls-key", "FILE", "its private key, PEM", file(&key_file)),
          Text("tls-server-name", "NAME", "what the server's certificate must say, where that is not the server's host",
               file(&server_name)),
          Text("token-file", "FILE",
               "holds the token that the server asks for; default: the environment variable SPOTLIGHT_TOKEN",
               file(&token_file)),
          Switch("allow-insecure", "send the token to another host without TLS", [this] { allow_insecure = true; })};
}

absl::StatusOr<ChannelSecurity> SecurityFlags::Load(const std::string& server, const std::string& default_token) const {
  ChannelSecurity security;
  security.tls = tls || !ca_file.empty() || !certificate_file.empty();
  security.server_name = server_name;
  if (certificate_file.empty() != key_file.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key come together");
  }
  if (!server_name.empty() && !security.tls) return absl::InvalidArgumentError("--tls-server-name needs --tls");
  security.token = default_token;
  for (const absl::Status& status :
       {ReadFile("tls-ca", ca_file, &security.ca_pem),
        ReadFile("tls-cert", certificate_file, &security.certificate_pem),
        ReadFile("tls-key", key_file, &security.key_pem), ReadFile("token-file", token_file, &security.token)}) {
    if (!status.ok()) return status;
  }
  absl::StripAsciiWhitespace(&security.token);
  if (!std::all_of(security.token.begin(), security.token.end(), absl::ascii_isgraph)) {
    return absl::InvalidArgumentError(absl::StrCat(token_file.empty() ? "SPOTLIGHT_TOKEN" : token_file,
                                                   ": a token is visible ASCII characters on one line"));
  }
  if (!security.token.empty() && !security.tls && !IsLocal(server) && !allow_insecure) {
    return absl::InvalidArgumentError(
        absl::StrCat("the token would cross the network to ", server, " in the clear; --tls, or --allow-insecure"));
  }
  return security;
}

}  // namespace spotlight::client
