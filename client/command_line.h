// A command's flags as one table: names, types, ranges and help are stated once, and both the parser and --help read
// them. `--name value` and `--name=value` are the same; a value may start with a dash; the last of several wins.
// Thread-compatible.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace spotlight::client {

// Closed on both ends unless `open_low`. An infinite end is no bound.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool open_low = false;

  bool Contains(double value) const;
  std::string ToString() const;  // "1 or more", "above 0", "0 to 1", "above 0, at most 1"
};

inline Range Any() {
  return {};
}
inline Range AtLeast(double low) {
  return {low, std::numeric_limits<double>::infinity(), false};
}
inline Range Above(double low) {
  return {low, std::numeric_limits<double>::infinity(), true};
}
inline Range Between(double low, double high) {
  return {low, high, false};
}
inline Range AboveUpTo(double low, double high) {
  return {low, high, true};
}

struct Option {
  std::string name;        // without the dashes
  std::string value_name;  // as --help prints it; empty: a switch, which takes no value
  std::string help;
  // Stores the value, or says what is wrong with it ("must be 1 or more").
  std::function<absl::Status(const std::string& value)> parse;
};

Option Switch(std::string name, std::string help, std::function<void()> set);
// The value must be valid UTF-8.
Option Text(std::string name, std::string value_name, std::string help, std::function<void(std::string)> set);
Option Integer(std::string name, std::string value_name, Range range, std::string help,
               std::function<void(int32_t)> set);
Option UnsignedInteger(std::string name, std::string value_name, std::string help, std::function<void(uint64_t)> set);
// Finite numbers only.
Option Real(std::string name, std::string value_name, Range range, std::string help, std::function<void(double)> set);
Option Choice(std::string name, std::vector<std::string> choices, std::string help,
              std::function<void(size_t choice)> set);

struct OptionGroup {
  std::string title;
  std::vector<Option> options;
};

struct Command {
  std::string name;
  std::string summary;  // one line, for the list of commands
  std::string details;  // paragraphs after it; may be empty
  std::vector<OptionGroup> groups;
  std::vector<std::string> examples;
  bool is_program = false;  // a program called `name`, not a subcommand of spotlight
};

// INVALID_ARGUMENT with one line for the user. On --help or -h sets *help_wanted and stops.
absl::Status ParseOptions(const Command& command, absl::Span<const std::string> arguments, bool* help_wanted);

std::string HelpText(const Command& command);

// The candidate that `name` was most likely meant to be; empty when none is near.
std::string NearestName(absl::string_view name, const std::vector<std::string>& candidates);

// Comma- or space-separated token ids, each 0 or more.
absl::Status ParseTokenIds(absl::string_view text, const std::function<void(int32_t)>& add);

// `text` in lines of at most `width` columns, each after the first behind `indent` spaces.
std::string Wrapped(absl::string_view text, size_t indent, size_t width);

}  // namespace spotlight::client
