// What every loader of files promises of a refusal.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "tests/fuzz/target.h"

namespace spotlight::fuzz {

inline void RequireNamesFile(const absl::Status& status, const std::string& folder) {
  Require(absl::StartsWith(status.message(), folder), "an error begins with the file's path");
  Require(status.message().size() < 4096, "an error is short");
  Require(status.code() == absl::StatusCode::kInvalidArgument || status.code() == absl::StatusCode::kNotFound,
          "an error says that the file is at fault");
}

}  // namespace spotlight::fuzz
