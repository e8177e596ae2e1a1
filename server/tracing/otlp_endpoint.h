// Where spans go: OTLP over HTTP.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spotlight::server {

struct OtlpEndpoint {
  std::string base;  // "https://collector:4318"
  std::string path;  // "/v1/traces"

  std::string url() const { return base + path; }
};

// `text` is HOST:PORT or a URL, whose path is taken as it is; without one it is /v1/traces. Errors are the rest of a
// sentence: "must be ..., got ...".
absl::StatusOr<OtlpEndpoint> ParseOtlpEndpoint(absl::string_view text);

// Likewise, but /v1/traces goes behind any path: the collector takes other signals beside it.
absl::StatusOr<OtlpEndpoint> ParseOtlpBaseEndpoint(absl::string_view text);

}  // namespace spotlight::server
