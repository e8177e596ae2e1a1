#pragma once

#include <string>

namespace spotlight::server {

// "req-" and 24 random hexadecimal digits. Thread-safe.
std::string NewRequestId();

}  // namespace spotlight::server
