// LibTorch's exceptions as a status, at the boundary of a library.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"

namespace spotlight::training {

// What `function` returns, or "WHAT: reason" of what it throws: RESOURCE_EXHAUSTED out of memory, else INTERNAL.
absl::Status CatchTorch(const std::string& what, const std::function<absl::Status()>& function);

}  // namespace spotlight::training
