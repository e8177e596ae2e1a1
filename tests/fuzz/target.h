// What a fuzz target is made of. Each *_target.cc feeds bytes from outside to the code that a server reads them with.
#pragma once

#include <cstdio>
#include <cstdlib>

#include "absl/strings/string_view.h"

namespace spotlight::fuzz {

// Whether the input was taken, else it was refused with a status. Anything else is a fault: a crash, a hang, memory out
// of proportion to the input, or a promise that does not hold.
bool Accepts(absl::string_view input);

inline void Require(bool holds, const char* promise) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", promise);
  std::abort();
}

}  // namespace spotlight::fuzz
