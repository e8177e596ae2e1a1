// Abseil's flags behind a parser that reports instead of exiting, spells them with dashes, and prints them by group.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace spotlight::server {

struct FlagEntry {
  const char* name;   // as in ABSL_FLAG
  const char* value;  // what stands for the value in the help; "" of a switch
};

struct FlagGroup {
  const char* title;
  std::vector<FlagEntry> flags;
};

enum class FlagAction { kRun, kHelp, kVersion };

// Sets the flags that argv names: --name=value, --name value, --switch, --no-switch. Flags outside `groups` and words
// that are no flag are INVALID_ARGUMENT.
absl::StatusOr<FlagAction> ParseFlags(const std::vector<FlagGroup>& groups, int argc, const char* const* argv);

std::string FormatFlags(const std::vector<FlagGroup>& groups);

}  // namespace spotlight::server
