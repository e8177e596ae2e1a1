// What selectors are called on the command line. No torch.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace spotlight::training {

// "oracle-a, oracle-b, ...": every name there is, for messages and help.
std::string SelectorNames();

// Each one of SelectorNames; those that begin with hash may be followed by ":PATH". INVALID_ARGUMENT: an unknown name
// (all names are listed), a name given twice, a colon and no path.
absl::Status CheckSelectorNames(const std::vector<std::string>& names);

}  // namespace spotlight::training
