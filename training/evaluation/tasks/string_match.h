// RULER's score of a generated answer (arXiv 2404.06654, string_match_all). No torch.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace spotlight::training {

// Share of `references` that occur in `answer`, upper and lower case alike. 1 without references.
double StringMatch(absl::string_view answer, const std::vector<std::string>& references);

}  // namespace spotlight::training
