// The subcommands. Each parses its own flags, runs against the server, and returns the exit code.
#pragma once

#include <string>

#include "absl/types/span.h"
#include "client/console.h"
#include "client/exit_code.h"

namespace spotlight::client {

using Arguments = absl::Span<const std::string>;  // after the subcommand's name

ExitCode RunGenerate(Arguments arguments, const Console& console);
ExitCode RunChat(Arguments arguments, const Console& console);
ExitCode RunModels(Arguments arguments, const Console& console);
ExitCode RunTokenize(Arguments arguments, const Console& console);
ExitCode RunDetokenize(Arguments arguments, const Console& console);
ExitCode RunAbort(Arguments arguments, const Console& console);
ExitCode RunLoads(Arguments arguments, const Console& console);
ExitCode RunHealth(Arguments arguments, const Console& console);

}  // namespace spotlight::client
