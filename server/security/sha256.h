#pragma once

#include <array>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace spotlight::server {

using Sha256Digest = std::array<uint8_t, 32>;

Sha256Digest Sha256(absl::string_view bytes);

// Takes the same time whatever differs.
bool EqualInConstantTime(const Sha256Digest& a, const Sha256Digest& b);

}  // namespace spotlight::server
