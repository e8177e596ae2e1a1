// "HOST:PORT" as the flags give it: "127.0.0.1:50051", "[::1]:9090", "localhost:0".
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spotlight::server {

struct ListenAddress {
  std::string host;  // without brackets
  int port = 0;      // 0: any free port

  bool is_loopback() const;
  std::string ToString() const;  // with brackets where the host needs them
};

// INVALID_ARGUMENT with the text and what is wrong with it.
absl::StatusOr<ListenAddress> ParseListenAddress(absl::string_view text);

// Binds and lets go again: the error names the address and the system's reason ("address already in use"), which the
// libraries that listen keep to themselves.
absl::Status CheckBindable(const ListenAddress& address);

}  // namespace spotlight::server
