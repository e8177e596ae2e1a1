// Memory of the server's device in use, as a program beside it tells.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace spotlight::soak {

// What `command`, run by a shell, prints: one whole number, of MB. UNAVAILABLE, with its output, where it fails or
// prints anything else.
absl::StatusOr<int64_t> ReadMegabytes(const std::string& command);

// Of two readings at rest: why the second is not fine after the first; empty: it is within `bound_mb`, and both are
// there.
std::string WrongInDeviceMemory(const absl::StatusOr<int64_t>& warm, const absl::StatusOr<int64_t>& rest,
                                int64_t bound_mb);

}  // namespace spotlight::soak
