// Channels to a server: plaintext or TLS, with or without a token.
#pragma once

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "grpcpp/channel.h"

namespace spotlight::client {

struct ChannelSecurity {
  bool tls = false;
  std::string ca_pem;                    // who may have signed the server's certificate; empty: the system's
  std::string certificate_pem, key_pem;  // the client's own, for servers that ask for one; empty: none
  std::string server_name;               // what the server's certificate must say; empty: the server's host
  // Sent with every call as "authorization: Bearer TOKEN"; empty: none. Of visible ASCII characters. Without TLS it
  // crosses the network in the clear: whether that may be is for the caller to decide.
  std::string token;
};

// Whether a target may stand for several servers: "dns:///HOST:PORT", which is every address of the name,
// "ipv4:IP:PORT,IP:PORT", "ipv6:[IP]:PORT,...".
bool NamesReplicas(absl::string_view target);

// A channel to "HOST:PORT" or "unix:PATH", connected on first use. No message size limit (a prompt of a million tokens
// is one message), no HTTP proxy, keepalive through long prefills. Channels to the same server share a connection
// unless they want their own.
//
// A target that names replicas is balanced as service_config.json says: calls take those in turn that report SERVING,
// and one that ends UNAVAILABLE before its first message is sent to another. One server's answer is its own.
std::shared_ptr<grpc::Channel> CreateChannel(const std::string& server, bool own_connection = false,
                                             const ChannelSecurity& security = {});

}  // namespace spotlight::client
