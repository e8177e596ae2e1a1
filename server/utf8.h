// UTF-8 of strings that came from, or go to, a peer.
#pragma once

#include <cstddef>

#include "absl/strings/string_view.h"

namespace spotlight::server {

// Well-formed UTF-8 (RFC 3629): no overlong forms, no surrogates, nothing above U+10FFFF.
bool IsUtf8(absl::string_view text);

// The longest prefix of at most `max_bytes` that splits no character.
absl::string_view Utf8Prefix(absl::string_view text, size_t max_bytes);

}  // namespace spotlight::server
