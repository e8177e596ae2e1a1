// Abseil's flags behind a parser that reports instead of exiting, spells them with dashes, and prints them by group.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace spotlight::command_line {

struct FlagEntry {
  const char* name;  // as in ABSL_FLAG
  // What stands for the value in the help. "": a switch. "PATH ...": all words up to the next flag, and again with
  // every repetition; FLAGS_name holds them one a line.
  const char* value;
};

struct FlagGroup {
  const char* title;
  std::vector<FlagEntry> flags;
};

enum class FlagAction { kRun, kHelp, kVersion };

// Sets the flags that argv names: --name=value, --name value, --switch, --no-switch, --list value value. Flags outside
// `groups` and words that are no flag are INVALID_ARGUMENT. Sets the process's flags: not thread-safe.
absl::StatusOr<FlagAction> ParseFlags(const std::vector<FlagGroup>& groups, int argc, const char* const* argv);

std::string FormatFlags(const std::vector<FlagGroup>& groups);

}  // namespace spotlight::command_line
