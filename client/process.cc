#include "client/process.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <iostream>

#include "client/exit_code.h"
#include "client/interrupts.h"
#include "command_line/signal_thread.h"

namespace spotlight::client {

int RunAsProcess(int argc, char** argv,
                 const std::function<int(const std::vector<std::string>& arguments, const Console& console)>& run) {
  signal(SIGPIPE, SIG_IGN);  // a closed pipe is a failed write, and ends the stream
  Interrupts interrupts;
  // Before any other thread. What interruptions can do no more, the end of the process does.
  const command_line::SignalThread signals(command_line::NotIgnored({SIGINT, SIGTERM, SIGHUP}), [&interrupts](int) {
    if (!interrupts.Notify()) _exit(kExitCancelled);
  });
  // gRPC would write its own words about a lost connection between ours.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);

  Console console;
  console.in_fd = STDIN_FILENO;
  console.in_is_terminal = isatty(STDIN_FILENO) == 1;
  console.out = &std::cout;
  console.err = &std::cerr;
  console.interrupts = &interrupts;
  const char* server = getenv("SPOTLIGHT_SERVER");
  console.default_server = server != nullptr && *server != '\0' ? server : "127.0.0.1:50051";
  const char* token = getenv("SPOTLIGHT_TOKEN");
  console.default_token = token != nullptr ? token : "";
  return run(std::vector<std::string>(argv + 1, argv + argc), console);
}

}  // namespace spotlight::client
