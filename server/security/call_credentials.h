#pragma once

#include "grpcpp/server_context.h"
#include "server/security/authorizer.h"

namespace spotlight::server {

// Peers are told by their certificate where the port asks for one, else by their address.
CallCredentials CredentialsOf(const grpc::CallbackServerContext& context);

}  // namespace spotlight::server
