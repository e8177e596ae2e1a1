#include "training/evaluation/selectors/selector_names.h"

#include <algorithm>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace spotlight::training {
namespace {

constexpr const char* kNames[] = {"oracle-a",      "oracle-b", "hash",     "hash-real", "hash-prefilter",
                                  "hash-adaptive", "lsh",      "lsh-head", "quest",     "quest-group",
                                  "magicpig",      "window",   "random"};

}  // namespace

std::string SelectorNames() {
  return absl::StrJoin(kNames, ", ");
}

absl::Status CheckSelectorNames(const std::vector<std::string>& names) {
  std::set<std::string> seen;
  for (const std::string& name : names) {
    if (!seen.insert(name).second) return absl::InvalidArgumentError(absl::StrCat("selector ", name, ": given twice"));
    const absl::string_view kind = absl::string_view(name).substr(0, name.find(':'));
    const bool known = std::find(std::begin(kNames), std::end(kNames), kind) != std::end(kNames);
    if (!known || (kind.size() != name.size() && !absl::StartsWith(kind, "hash"))) {
      return absl::InvalidArgumentError(absl::StrCat("selector ", name, ": must be one of ", SelectorNames(),
                                                     "; the hash ones may be followed by :PATH"));
    }
    if (name.back() == ':') return absl::InvalidArgumentError(absl::StrCat("selector ", name, ": names no file"));
  }
  return absl::OkStatus();
}

}  // namespace spotlight::training
