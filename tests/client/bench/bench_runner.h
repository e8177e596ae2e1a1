// Runs spotlight-bench in this process.
#pragma once

#include <sstream>
#include <string>
#include <vector>

#include "client/bench/run.h"
#include "client/console.h"
#include "client/interrupts.h"
#include "nlohmann/json.hpp"

namespace spotlight::testing {

struct BenchRun {
  int exit_code;
  std::string out;
  std::string err;

  nlohmann::json json() const { return nlohmann::json::parse(out); }  // of --result-filename -
};

inline BenchRun RunBench(const std::string& server, const std::vector<std::string>& arguments) {
  client::Interrupts interrupts;
  std::ostringstream out, err;
  client::Console console;
  console.out = &out;
  console.err = &err;
  console.interrupts = &interrupts;
  console.default_server = server;
  const int exit_code = client::bench::RunBench(arguments, console, /*show_progress=*/false);
  return {exit_code, out.str(), err.str()};
}

}  // namespace spotlight::testing
