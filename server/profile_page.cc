#include "server/profile_page.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace spotlight::server {
namespace {

// A step of a large model leaves thousands of events, of 300 bytes each in the end.
constexpr int32_t kMaxSteps = 1000, kDefaultSteps = 10;
constexpr int32_t kMaxSeconds = 300, kDefaultSeconds = 30;

absl::StatusOr<int32_t> ReadCount(const char* name, const std::vector<std::string>& values, int32_t max,
                                  int32_t otherwise) {
  if (values.empty()) return otherwise;
  int32_t value = 0;
  if (values.size() > 1 || !absl::SimpleAtoi(values[0], &value) || value < 1 || value > max) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": must be a whole number of 1 to ", max, ", once, got \"", values[0].substr(0, 32), "\""));
  }
  return value;
}

}  // namespace

absl::Status CheckProfilePort(const SecurityOptions& security, bool http_is_loopback) {
  if (http_is_loopback) return absl::OkStatus();
  if (security.token_file.empty()) {
    return absl::PermissionDeniedError("profiles need --token-file where --http is not a loopback address");
  }
  if (security.tls.enabled() && !security.http_tls) {
    return absl::PermissionDeniedError(
        "profiles need --http-tls where --http is not a loopback address: their token would cross the network");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Profile(const ProfileCall& call, const Authorizer& authorizer,
                                    engine::StepProfiler* profiler, std::string* caller) {
  CallCredentials credentials;
  credentials.authorization.assign(call.authorization.begin(), call.authorization.end());
  credentials.peer = call.peer;
  const Authorization authorization = authorizer.Authorize(credentials, Scope::kAdmin, CallCost::kFree);
  *caller = authorization.caller.name;
  if (!authorization.status.ok()) return authorization.status;
  const auto steps = ReadCount("steps", call.steps, kMaxSteps, kDefaultSteps);
  if (!steps.ok()) return steps.status();
  const auto seconds = ReadCount("seconds", call.seconds, kMaxSeconds, kDefaultSeconds);
  if (!seconds.ok()) return seconds.status();
  if (profiler == nullptr) return absl::UnavailableError("there is no engine to profile yet");
  return profiler->Profile(*steps, absl::Seconds(*seconds));
}

}  // namespace spotlight::server
