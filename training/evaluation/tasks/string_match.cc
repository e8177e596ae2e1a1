#include "training/evaluation/tasks/string_match.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace spotlight::training {

double StringMatch(absl::string_view answer, const std::vector<std::string>& references) {
  if (references.empty()) return 1;
  const std::string lower = absl::AsciiStrToLower(answer);
  int64_t found = 0;
  for (const std::string& reference : references) found += absl::StrContains(lower, absl::AsciiStrToLower(reference));
  return static_cast<double>(found) / static_cast<double>(references.size());
}

}  // namespace spotlight::training
