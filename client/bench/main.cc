#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <iostream>
#include <string>
#include <vector>

#include "client/bench/run.h"
#include "client/signal_watch.h"

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  spotlight::client::Interrupts interrupts;
  const spotlight::client::SignalWatch watch(&interrupts, spotlight::client::kExitCancelled);
  // gRPC would write its own words about a lost connection between ours.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);

  spotlight::client::Console console;
  console.in_fd = STDIN_FILENO;
  console.in_is_terminal = isatty(STDIN_FILENO) == 1;
  console.out = &std::cout;
  console.err = &std::cerr;
  console.interrupts = &interrupts;
  const char* server = getenv("SPOTLIGHT_SERVER");
  console.default_server = server != nullptr && *server != '\0' ? server : "127.0.0.1:50051";
  const char* token = getenv("SPOTLIGHT_TOKEN");
  console.default_token = token != nullptr ? token : "";
  const bool progress = isatty(STDERR_FILENO) == 1;
  return spotlight::client::bench::RunBench(std::vector<std::string>(argv + 1, argv + argc), console, progress);
}
