#include "command_line/flag_parser.h"

#include <algorithm>

#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace spotlight::command_line {
namespace {

constexpr size_t kLineWidth = 110;

std::string Dashed(absl::string_view name) {
  return absl::StrReplaceAll(name, {{"_", "-"}});
}

const FlagEntry* Find(const std::vector<FlagGroup>& groups, absl::string_view spelling) {
  const std::string name = absl::StrReplaceAll(spelling, {{"-", "_"}});
  for (const FlagGroup& group : groups) {
    for (const FlagEntry& flag : group.flags) {
      if (name == flag.name) return &flag;
    }
  }
  return nullptr;
}

bool IsSwitch(const FlagEntry& flag) {
  return *flag.value == '\0';
}

bool IsList(const FlagEntry& flag) {
  return absl::EndsWith(flag.value, " ...");
}

// "--dtype auto|bf16|fp32", and of a switch that is on by default the spelling that turns it off.
std::string Left(const FlagEntry& flag, const absl::CommandLineFlag& handle) {
  if (!IsSwitch(flag)) return absl::StrCat("  --", Dashed(flag.name), " ", flag.value);
  return absl::StrCat("  --", handle.DefaultValue() == "true" ? "[no-]" : "", Dashed(flag.name));
}

void AppendWrapped(absl::string_view text, size_t indent, std::string* out) {
  const size_t width = kLineWidth - indent;
  while (text.size() > width) {
    size_t end = text.rfind(' ', width);
    if (end == absl::string_view::npos) end = width;
    absl::StrAppend(out, text.substr(0, end), "\n", std::string(indent, ' '));
    text = absl::StripPrefix(text.substr(end), " ");
  }
  absl::StrAppend(out, text, "\n");
}

}  // namespace

absl::StatusOr<FlagAction> ParseFlags(const std::vector<FlagGroup>& groups, int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view word = argv[i];
    if (word == "--help" || word == "-h") return FlagAction::kHelp;
    if (word == "--version") return FlagAction::kVersion;
    if (!absl::ConsumePrefix(&word, "--") || word.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("\"", argv[i], "\" is not a flag; see --help"));
    }
    const size_t equals = word.find('=');
    const bool has_value = equals != absl::string_view::npos;
    const absl::string_view spelling = word.substr(0, equals);
    std::string value(has_value ? word.substr(equals + 1) : absl::string_view());

    const FlagEntry* flag = Find(groups, spelling);
    if (flag == nullptr && !has_value && absl::StartsWith(spelling, "no-")) {
      const FlagEntry* negated = Find(groups, spelling.substr(3));
      if (negated != nullptr && IsSwitch(*negated)) {
        flag = negated;
        value = "false";
      }
    } else if (flag != nullptr && !has_value) {
      const bool is_next_flag = i + 1 < argc && IsList(*flag) && absl::StartsWith(argv[i + 1], "--");
      if (!IsSwitch(*flag) && (i + 1 == argc || is_next_flag)) {
        return absl::InvalidArgumentError(absl::StrCat("--", spelling, ": needs a value, ", flag->value));
      }
      value = IsSwitch(*flag) ? "true" : argv[++i];
    }
    if (flag == nullptr) return absl::InvalidArgumentError(absl::StrCat("--", spelling, ": no such flag; see --help"));
    absl::CommandLineFlag* const handle = absl::FindCommandLineFlag(flag->name);
    if (IsList(*flag)) {
      while (i + 1 < argc && !absl::StartsWith(argv[i + 1], "--")) absl::StrAppend(&value, "\n", argv[++i]);
      const std::string before = handle->CurrentValue();
      if (!before.empty()) value = absl::StrCat(before, "\n", value);
    }
    std::string error;
    if (!handle->ParseFrom(value, &error)) {
      return absl::InvalidArgumentError(absl::StrCat("--", spelling, ": cannot take \"", value, "\" as ",
                                                     IsSwitch(*flag) ? "true or false" : flag->value));
    }
  }
  return FlagAction::kRun;
}

std::string FormatFlags(const std::vector<FlagGroup>& groups) {
  size_t indent = 0;
  for (const FlagGroup& group : groups) {
    for (const FlagEntry& flag : group.flags) {
      indent = std::max(indent, Left(flag, *absl::FindCommandLineFlag(flag.name)).size() + 2);
    }
  }
  std::string out;
  for (const FlagGroup& group : groups) {
    absl::StrAppend(&out, out.empty() ? "" : "\n", group.title, "\n");
    for (const FlagEntry& flag : group.flags) {
      const absl::CommandLineFlag& handle = *absl::FindCommandLineFlag(flag.name);
      std::string left = Left(flag, handle);
      left.resize(indent, ' ');
      absl::StrAppend(&out, left);
      const std::string default_value = handle.DefaultValue();
      AppendWrapped(default_value.empty() || IsSwitch(flag)
                        ? absl::StrCat(handle.Help(), IsSwitch(flag) && default_value == "true" ? " (default on)" : "")
                        : absl::StrCat(handle.Help(), " (default ", default_value, ")"),
                    indent, &out);
    }
  }
  return out;
}

}  // namespace spotlight::command_line
