// What the client's programs ask of their process: signals, terminal, environment.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "client/console.h"

namespace spotlight::client {

// Runs `run` with the arguments behind the program's name and the process's own console, SPOTLIGHT_SERVER and
// SPOTLIGHT_TOKEN read. Returns what it returns: the exit code.
int RunAsProcess(int argc, char** argv,
                 const std::function<int(const std::vector<std::string>& arguments, const Console& console)>& run);

}  // namespace spotlight::client
