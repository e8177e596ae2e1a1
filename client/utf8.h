// A protobuf string field must be valid UTF-8; what the user gives is checked before it becomes one.
#pragma once

#include "absl/strings/string_view.h"

namespace spotlight::client {

// Refuses overlong forms, surrogates and code points past U+10FFFF.
bool IsValidUtf8(absl::string_view text);

}  // namespace spotlight::client
