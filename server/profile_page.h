// /debug/profile on the HTTP port: what the engine did in its next steps, as a Chrome trace, for an administrator.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/step_profiler.h"
#include "server/security/authorizer.h"
#include "server/security/options.h"

namespace spotlight::server {

// As it came over HTTP. Values of a parameter that came more than once are all there.
struct ProfileCall {
  std::vector<std::string> authorization;
  std::string peer;  // "ipv4:10.0.0.7"
  std::vector<std::string> steps, seconds;
};

// OK where an HTTP port may serve profiles at all: on the loopback to anyone, elsewhere to tokens, and those only
// encrypted if gRPC's are. PERMISSION_DENIED says what is missing.
absl::Status CheckProfilePort(const SecurityOptions& security, bool http_is_loopback);

// INVALID_ARGUMENT: a parameter; UNAUTHENTICATED or PERMISSION_DENIED: the token; else StepProfiler::Profile's errors.
// `profiler` is null while the model loads. `*caller` is whose token it was.
absl::StatusOr<std::string> Profile(const ProfileCall& call, const Authorizer& authorizer,
                                    engine::StepProfiler* profiler, std::string* caller);

}  // namespace spotlight::server
