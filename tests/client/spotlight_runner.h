// Runs the command line in this process, with strings in the terminal's place.
#pragma once

#include <string>
#include <vector>

#include "client/interrupts.h"

namespace spotlight::testing {

struct SpotlightResult {
  int exit_code;
  std::string out;
  std::string err;
};

struct SpotlightInput {
  std::string text = "";  // what stdin holds
  bool ends = true;       // false: stdin stays open after the text, as a terminal's
  bool is_terminal = false;
  std::string notify_at = "";         // Ctrl-C once stdout ends with this
  std::string notify_at_stderr = "";  // or stderr
  bool output_closed = false;         // every write to stdout fails as on a closed pipe
  bool interrupted = false;           // Ctrl-C before anything else
  std::string token = "";             // of the environment
};

// `server` becomes the default of --server.
SpotlightResult RunSpotlight(const std::string& server, const std::vector<std::string>& arguments,
                             const SpotlightInput& input = {});

}  // namespace spotlight::testing
