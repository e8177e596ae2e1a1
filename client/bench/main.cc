#include <unistd.h>

#include "client/bench/run.h"
#include "client/process.h"

int main(int argc, char** argv) {
  const bool show_progress = isatty(STDERR_FILENO) == 1;
  return spotlight::client::RunAsProcess(argc, argv, [&](const auto& arguments, const auto& console) {
    return spotlight::client::bench::RunBench(arguments, console, show_progress);
  });
}
