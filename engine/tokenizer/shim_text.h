// A string that the shim gave out, taken over and freed.
#pragma once

#include <string>

#include "engine/tokenizer/shim/shim.h"

namespace spotlight::engine {

inline std::string TakeText(TkStr text) {
  std::string out(reinterpret_cast<const char*>(text.data), text.len);
  tk_str_free(text);
  return out;
}

}  // namespace spotlight::engine
