// What an operator decides about who may connect and call.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"

namespace spotlight::server {

// PEM files. The certificate and its key come together; without them the port is plaintext.
struct TlsOptions {
  std::string certificate_file;  // the server's, followed by its intermediate certificates
  std::string key_file;          // unencrypted
  std::string client_ca_file;    // not empty: clients must show a certificate that one of these signed

  bool enabled() const { return !certificate_file.empty(); }
};

struct SecurityOptions {
  TlsOptions tls;
  bool http_tls = false;   // the HTTP port speaks TLS, too, with the same certificate; it never asks for a client's
  std::string token_file;  // empty: calls need no token
  // Requests in progress of a caller that no token gives a max_concurrent of its own; 0: any number.
  int32_t max_concurrent_per_caller = 0;
  // How often the files above are read again. A change is served after this long at most.
  absl::Duration reload_interval = absl::Seconds(5);
};

}  // namespace spotlight::server
