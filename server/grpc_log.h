#pragma once

namespace spotlight::server {

// gRPC's errors go to the program's log, ten in ten seconds at most: each failed TLS handshake is one, and anybody can
// make those. What was left out is counted.
void LogGrpcErrors();

}  // namespace spotlight::server
