// The file of bearer tokens: who may call what, how often. Its format is told in README.md beside this.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/security/caller.h"
#include "server/security/sha256.h"

namespace spotlight::server {

struct CallerLimits {
  double requests_per_minute = 0;  // 0: any number
  int32_t burst = 0;               // requests that may come at once; >= 1 where there is a rate
  int32_t max_concurrent = 0;      // requests at the same time; 0: any number
};

struct TokenEntry {
  Caller caller;
  std::vector<Sha256Digest> digests;  // any of them; two while a token is being replaced
  CallerLimits limits;
};

// INVALID_ARGUMENT names the file and the entry, and quotes names and numbers only: a token that was written here by
// mistake stays out of the log. Names and digests are unique.
absl::StatusOr<std::vector<TokenEntry>> ParseTokenFile(const std::string& path, const std::string& text);

}  // namespace spotlight::server
