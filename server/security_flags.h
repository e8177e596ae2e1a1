#pragma once

#include "absl/status/status.h"
#include "server/server.h"

namespace spotlight::server {

// The flags of who may connect and call, from security_flags.cc; `options->listen` is set. INVALID_ARGUMENT names the
// flag.
absl::Status ReadSecurityFlags(ServerOptions* options);

}  // namespace spotlight::server
