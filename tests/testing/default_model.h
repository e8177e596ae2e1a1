// Where tools/fetch_default_model.sh, which `make model` and `make test` run, puts the default model.
#pragma once

#include <cstdlib>
#include <string>

namespace spotlight::testing {

inline std::string DefaultModelFolder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::string root = cache != nullptr ? cache : std::string(home != nullptr ? home : "") + "/.cache";
  return root + "/spotlight/models/SmolLM2-135M-Instruct";
}

}  // namespace spotlight::testing
