// The version of all of Spotlight's programs.
#pragma once

namespace spotlight {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace spotlight
