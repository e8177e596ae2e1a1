#include "command_line/bound_spinning.h"

#include <unistd.h>

#include <cstdlib>

namespace spotlight::command_line {

void BoundSpinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "3000", /*overwrite=*/1);
  execv("/proc/self/exe", argv);
}

}  // namespace spotlight::command_line
