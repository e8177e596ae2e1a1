#include "server/security/call_credentials.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "grpc/grpc_security_constants.h"
#include "grpcpp/security/auth_context.h"
#include "server/security/sha256.h"

namespace spotlight::server {
namespace {

constexpr size_t kMaxNameBytes = 256;

// The certificate's SPIFFE id, else its subject's common name, else its first alternative name.
std::string CertificateIdentity(const grpc::AuthContext& context) {
  for (const char* property :
       {GRPC_PEER_SPIFFE_ID_PROPERTY_NAME, GRPC_X509_CN_PROPERTY_NAME, GRPC_X509_SAN_PROPERTY_NAME}) {
    const auto values = context.FindPropertyValues(property);
    if (!values.empty() && !values[0].empty()) return std::string(values[0].data(), values[0].size());
  }
  return "";
}

// "ipv6:%5B::1%5D:1234" -> "ipv6:[::1]".
std::string WithoutPort(const std::string& peer) {
  if (!absl::StartsWith(peer, "ipv")) return peer;
  return absl::StrReplaceAll(peer.substr(0, peer.rfind(':')), {{"%5B", "["}, {"%5D", "]"}, {"%25", "%"}});
}

// Also one that names nobody, which gRPC does not call authenticated.
bool HasCertificate(const grpc::CallbackServerContext& context) {
  const auto auth = context.auth_context();
  return auth != nullptr && !auth->FindPropertyValues(GRPC_X509_PEM_CERT_PROPERTY_NAME).empty();
}

std::string PeerOf(const grpc::CallbackServerContext& context) {
  const auto auth = context.auth_context();
  if (auth != nullptr && auth->IsPeerAuthenticated()) {
    const std::string identity = CertificateIdentity(*auth);
    if (!identity.empty()) return absl::StrCat("x509:", identity);
  }
  return WithoutPort(context.peer());
}

// A SPIFFE id has up to 2048 bytes; two that differ only at their ends are two callers.
std::string Bounded(const std::string& name) {
  if (name.size() <= kMaxNameBytes) return name;
  const Sha256Digest digest = Sha256(name);
  const std::string hex =
      absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
  return absl::StrCat(name.substr(0, kMaxNameBytes - hex.size() - 1), "#", hex);
}

}  // namespace

CallCredentials CredentialsOf(const grpc::CallbackServerContext& context) {
  CallCredentials credentials;
  const auto values = context.client_metadata().equal_range("authorization");
  for (auto value = values.first; value != values.second; ++value) {
    credentials.authorization.emplace_back(value->second.data(), value->second.size());
  }
  credentials.peer = Bounded(PeerOf(context));
  credentials.has_certificate = HasCertificate(context);
  return credentials;
}

}  // namespace spotlight::server
