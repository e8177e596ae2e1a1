// The command line of spotlight-server.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/load.h"
#include "server/server.h"

namespace spotlight::server {

struct ProgramOptions {
  engine::LoadOptions load;
  ServerOptions server;
  absl::Duration drain;  // what running requests get after SIGTERM
};

enum class Action { kServe, kPrintHelp, kPrintVersion };

struct CommandLine {
  Action action = Action::kServe;
  ProgramOptions options;  // of kServe
};

// INVALID_ARGUMENT names the flag, its value and what it may be. Sets the process's flags: not thread-safe.
absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv);

// Every flag by group, with its unit and its default.
std::string HelpText();

}  // namespace spotlight::server
