// Finds stop strings in text that comes in pieces, and holds back what may yet become one.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace spotlight::engine {

// What is matched and given out depends on the text alone, not on how it is cut: of several stop strings the one that
// ends first counts, of those that end together the longest. Thread-compatible.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stops);

  struct Released {
    std::string text;                     // nothing can claim it any more; up to the match where there is one
    absl::optional<std::string> matched;  // not part of `text`
  };

  // With `may_stop` false, stops that end within `text` are passed over.
  Released Push(absl::string_view text, bool may_stop);
  // What is held back, when no more text will come.
  std::string Flush();

 private:
  // Bytes at the end of held_ that begin a stop string.
  size_t NumPending() const;

  std::vector<std::string> stops_;
  std::string held_;
};

}  // namespace spotlight::engine
