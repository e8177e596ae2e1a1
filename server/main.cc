#include <unistd.h>

#include <cstdlib>

#include "engine/load.h"
#include "server/program.h"

namespace {

// libgomp's threads wait for each other by spinning for milliseconds. On a machine with other work, a thread that spins
// keeps the one it waits for off the processor: a token then takes 20 to 80 times as long. A bound of some 10 us costs
// 5% on a quiet machine, and two to three times the time on a busy one (2 threads beside 2 busy processes). libgomp
// reads it when it is loaded, which is before main, so it takes a second start.
void BoundSpinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "3000", /*overwrite=*/1);
  execv("/proc/self/exe", argv);
  // Where that cannot be executed, the server runs as it is.
}

}  // namespace

int main(int argc, char** argv) {
  BoundSpinning(argv);
  return spotlight::server::RunProgram(argc, argv, spotlight::engine::LoadEngine);
}
