#include "client/command_line.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "client/utf8.h"

namespace spotlight::client {
namespace {

absl::Status Wrong(absl::string_view what) {
  return absl::InvalidArgumentError(what);
}

absl::Status OutOfRange(const Range& range, absl::string_view value) {
  return Wrong(absl::StrCat("must be ", range.ToString(), ", got ", value));
}

std::string WithRange(std::string help, const Range& range) {
  const std::string bounds = range.ToString();
  return bounds.empty() ? help : absl::StrCat(help, " (", bounds, ")");
}

// Edits, insertions, deletions and swaps of neighbours that turn `a` into `b`.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<std::vector<size_t>> distance(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        distance[i][j] = i + j;
        continue;
      }
      size_t best = std::min(distance[i - 1][j], distance[i][j - 1]) + 1;
      best = std::min(best, distance[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        best = std::min(best, distance[i - 2][j - 2] + 1);
      }
      distance[i][j] = best;
    }
  }
  return distance[a.size()][b.size()];
}

const Option* Find(const Command& command, absl::string_view name) {
  for (const OptionGroup& group : command.groups) {
    for (const Option& option : group.options) {
      if (option.name == name) return &option;
    }
  }
  return nullptr;
}

// As it is typed.
std::string Invocation(const Command& command) {
  return command.is_program ? command.name : absl::StrCat("spotlight ", command.name);
}

absl::Status UnknownOption(const Command& command, absl::string_view name) {
  std::vector<std::string> names = {"help"};
  for (const OptionGroup& group : command.groups) {
    for (const Option& option : group.options) names.push_back(option.name);
  }
  const std::string nearest = NearestName(name, names);
  return Wrong(absl::StrCat("unknown flag --", name,
                            nearest.empty() ? absl::StrCat("; see ", Invocation(command), " --help")
                                            : absl::StrCat("; did you mean --", nearest, "?")));
}

}  // namespace

bool Range::Contains(double value) const {
  return (open_low ? value > low : value >= low) && value <= high;
}

std::string Range::ToString() const {
  const bool bounded_low = std::isfinite(low);
  const bool bounded_high = std::isfinite(high);
  if (bounded_low && bounded_high) {
    return open_low ? absl::StrCat("above ", low, ", at most ", high) : absl::StrCat(low, " to ", high);
  }
  if (bounded_low) return open_low ? absl::StrCat("above ", low) : absl::StrCat(low, " or more");
  return bounded_high ? absl::StrCat("at most ", high) : "";
}

Option Switch(std::string name, std::string help, std::function<void()> set) {
  return {std::move(name), "", std::move(help), [set = std::move(set)](const std::string&) {
            set();
            return absl::OkStatus();
          }};
}

Option Text(std::string name, std::string value_name, std::string help, std::function<void(std::string)> set) {
  return {std::move(name), std::move(value_name), std::move(help),
          [set = std::move(set)](const std::string& value) -> absl::Status {
            if (!IsValidUtf8(value)) return Wrong("must be valid UTF-8");
            set(value);
            return absl::OkStatus();
          }};
}

Option Integer(std::string name, std::string value_name, Range range, std::string help,
               std::function<void(int32_t)> set) {
  return {std::move(name), std::move(value_name), WithRange(std::move(help), range),
          [range, set = std::move(set)](const std::string& value) -> absl::Status {
            int32_t number = 0;
            if (!absl::SimpleAtoi(value, &number)) {
              return Wrong(absl::StrCat("takes a 32-bit whole number, got '", value, "'"));
            }
            if (!range.Contains(number)) return OutOfRange(range, value);
            set(number);
            return absl::OkStatus();
          }};
}

Option UnsignedInteger(std::string name, std::string value_name, std::string help, std::function<void(uint64_t)> set) {
  return {std::move(name), std::move(value_name), std::move(help),
          [set = std::move(set)](const std::string& value) -> absl::Status {
            uint64_t number = 0;
            if (!absl::SimpleAtoi(value, &number)) {
              return Wrong(absl::StrCat("takes a 64-bit whole number of 0 or more, got '", value, "'"));
            }
            set(number);
            return absl::OkStatus();
          }};
}

Option Real(std::string name, std::string value_name, Range range, std::string help, std::function<void(double)> set) {
  return {std::move(name), std::move(value_name), WithRange(std::move(help), range),
          [range, set = std::move(set)](const std::string& value) -> absl::Status {
            double number = 0;
            if (!absl::SimpleAtod(value, &number) || !std::isfinite(number)) {
              return Wrong(absl::StrCat("takes a finite number, got '", value, "'"));
            }
            if (!range.Contains(number)) return OutOfRange(range, value);
            set(number);
            return absl::OkStatus();
          }};
}

Option Choice(std::string name, std::vector<std::string> choices, std::string help,
              std::function<void(size_t choice)> set) {
  std::string value_name = absl::StrJoin(choices, "|");
  return {std::move(name), std::move(value_name), std::move(help),
          [choices = std::move(choices), set = std::move(set)](const std::string& value) -> absl::Status {
            const auto found = std::find(choices.begin(), choices.end(), value);
            if (found == choices.end()) {
              return Wrong(absl::StrCat("must be one of ", absl::StrJoin(choices, ", "), ", got '", value, "'"));
            }
            set(found - choices.begin());
            return absl::OkStatus();
          }};
}

absl::Status ParseOptions(const Command& command, absl::Span<const std::string> arguments, bool* help_wanted) {
  *help_wanted = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--help" || argument == "-h") {
      *help_wanted = true;
      return absl::OkStatus();
    }
    absl::string_view name = argument;
    if (!absl::ConsumePrefix(&name, "--") || name.empty()) {
      return Wrong(absl::StrCat("unexpected argument '", argument, "'; ", Invocation(command),
                                " takes flags only, see ", Invocation(command), " --help"));
    }
    const size_t equals = name.find('=');
    const bool has_value = equals != absl::string_view::npos;
    std::string value(has_value ? name.substr(equals + 1) : "");
    name = name.substr(0, equals);

    const Option* option = Find(command, name);
    if (option == nullptr) return UnknownOption(command, name);
    if (option->value_name.empty()) {
      if (has_value) return Wrong(absl::StrCat("--", name, " takes no value"));
    } else if (!has_value) {
      if (i + 1 == arguments.size()) return Wrong(absl::StrCat("--", name, " needs a value, ", option->value_name));
      value = arguments[++i];
    }
    const absl::Status status = option->parse(value);
    if (!status.ok()) return Wrong(absl::StrCat("--", name, " ", status.message()));
  }
  return absl::OkStatus();
}

std::string Wrapped(absl::string_view text, size_t indent, size_t width) {
  std::string out;
  size_t column = 0;
  for (absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    if (column > 0 && column + 1 + word.size() > width - indent) {
      absl::StrAppend(&out, "\n", std::string(indent, ' '));
      column = 0;
    }
    absl::StrAppend(&out, column > 0 ? " " : "", word);
    column += word.size() + (column > 0);
  }
  return out;
}

std::string HelpText(const Command& command) {
  constexpr size_t kHelpColumn = 30;
  constexpr size_t kWidth = 100;
  std::string out =
      absl::StrCat(Invocation(command), ": ", command.summary, "\n\nUsage: ", Invocation(command), " [flags]\n");
  for (absl::string_view paragraph : absl::StrSplit(command.details, '\n', absl::SkipEmpty())) {
    absl::StrAppend(&out, "\n", Wrapped(paragraph, 0, kWidth), "\n");
  }
  for (const OptionGroup& group : command.groups) {
    absl::StrAppend(&out, "\n", group.title, "\n");
    for (const Option& option : group.options) {
      std::string left = absl::StrCat("  --", option.name, option.value_name.empty() ? "" : " ", option.value_name);
      if (left.size() + 2 > kHelpColumn) {
        absl::StrAppend(&out, left, "\n");
        left.clear();
      }
      left.resize(kHelpColumn, ' ');
      absl::StrAppend(&out, left, Wrapped(option.help, kHelpColumn, kWidth), "\n");
    }
  }
  if (!command.examples.empty()) absl::StrAppend(&out, "\nExamples\n");
  for (const std::string& example : command.examples) absl::StrAppend(&out, "  ", example, "\n");
  return out;
}

std::string NearestName(absl::string_view name, const std::vector<std::string>& candidates) {
  std::string nearest;
  size_t nearest_distance = std::max<size_t>(2, name.size() / 3) + 1;
  if (name.size() > 64) return nearest;  // no flag is that long, and the distance is quadratic
  for (const std::string& candidate : candidates) {
    // The start of a name counts as one edit: --max for --max-tokens.
    const bool is_start = name.size() >= 3 && absl::string_view(candidate).substr(0, name.size()) == name;
    const size_t distance = is_start ? 1 : EditDistance(name, candidate);
    if (distance < nearest_distance) {
      nearest_distance = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

absl::Status ParseTokenIds(absl::string_view text, const std::function<void(int32_t)>& add) {
  bool any = false;
  for (absl::string_view word : absl::StrSplit(text, absl::ByAnyChar(", \t\r\n[]"), absl::SkipEmpty())) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(word, &id) || id < 0) {
      return Wrong(absl::StrCat("takes token ids of 0 or more, got '", word.substr(0, 40), "'"));
    }
    add(id);
    any = true;
  }
  return any ? absl::OkStatus() : Wrong("takes at least one token id");
}

}  // namespace spotlight::client
