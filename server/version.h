#pragma once

namespace spotlight::server {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace spotlight::server
