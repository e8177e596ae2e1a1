#include "server/tracing/otlp_endpoint.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace spotlight::server {
namespace {

constexpr char kTracesPath[] = "/v1/traces";

bool IsHost(absl::string_view host) {
  if (absl::ConsumePrefix(&host, "[")) {
    return absl::ConsumeSuffix(&host, "]") && !host.empty() && std::all_of(host.begin(), host.end(), [](char c) {
             return absl::ascii_isxdigit(c) || c == ':' || c == '.';
           });
  }
  const auto allowed = [](char c) { return absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_'; };
  return !host.empty() && std::all_of(host.begin(), host.end(), allowed);
}

bool IsPort(absl::string_view port) {
  uint32_t number = 0;
  return absl::SimpleAtoi(port, &number) && number >= 1 && number <= 65535;
}

// HOST or HOST:PORT.
bool IsAuthority(absl::string_view authority, bool needs_port) {
  const size_t bracket = authority.rfind(']');
  const size_t colon = authority.rfind(':');
  const bool has_port = colon != absl::string_view::npos && (bracket == absl::string_view::npos || colon > bracket);
  if (!has_port) return !needs_port && IsHost(authority);
  return IsHost(authority.substr(0, colon)) && IsPort(authority.substr(colon + 1));
}

bool IsPath(absl::string_view path) {
  const auto allowed = [](char c) { return absl::ascii_isgraph(c) && c != '?' && c != '#'; };
  return std::all_of(path.begin(), path.end(), allowed);
}

absl::StatusOr<OtlpEndpoint> Parse(absl::string_view text) {
  const auto invalid = [text] {
    return absl::InvalidArgumentError(
        absl::StrCat("must be HOST:PORT or http[s]://HOST[:PORT][/PATH], got \"", text, "\""));
  };
  OtlpEndpoint endpoint;
  absl::string_view rest = text;
  const bool is_https = absl::ConsumePrefix(&rest, "https://");
  const bool is_url = is_https || absl::ConsumePrefix(&rest, "http://");
  const size_t slash = std::min(rest.find('/'), rest.size());
  const absl::string_view authority = rest.substr(0, slash);
  const absl::string_view path = rest.substr(slash);
  if (!IsAuthority(authority, /*needs_port=*/!is_url) || !IsPath(path) || (!is_url && !path.empty())) return invalid();
  endpoint.base = absl::StrCat(is_https ? "https://" : "http://", authority);
  endpoint.path = std::string(path);
  return endpoint;
}

}  // namespace

absl::StatusOr<OtlpEndpoint> ParseOtlpBaseEndpoint(absl::string_view text) {
  auto endpoint = Parse(text);
  if (!endpoint.ok()) return endpoint;
  if (absl::EndsWith(endpoint->path, "/")) endpoint->path.pop_back();
  endpoint->path += kTracesPath;
  return endpoint;
}

absl::StatusOr<OtlpEndpoint> ParseOtlpEndpoint(absl::string_view text) {
  auto endpoint = Parse(text);
  if (!endpoint.ok()) return endpoint;
  if (endpoint->path.empty() || endpoint->path == "/") endpoint->path = kTracesPath;
  return endpoint;
}

}  // namespace spotlight::server
