// Ends the program with a message: a benchmark has nobody to hand an error to, and no figure after a fault counts.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace spotlight::benchmarks {

[[noreturn]] void Fail(const std::string& message);
void Check(const absl::Status& status);

}  // namespace spotlight::benchmarks
