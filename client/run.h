// The program without its process: main() wires it to the real terminal, tests to strings.
#pragma once

#include <string>
#include <vector>

#include "client/console.h"

namespace spotlight::client {

// `arguments` without the program's name. Returns the exit code. Throws nothing and never ends the process.
int Run(const std::vector<std::string>& arguments, const Console& console);

}  // namespace spotlight::client
