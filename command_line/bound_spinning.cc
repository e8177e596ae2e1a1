#include "command_line/bound_spinning.h"

#include <sys/auxv.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>

namespace spotlight::command_line {

void BoundSpinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  // Without a base address of the dynamic loader the loader itself was started, with the program as its argument:
  // /proc/self/exe would take argv[1] for the program.
  if (getauxval(AT_BASE) == 0) return;
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  if (length < 0) return;
  path[length] = '\0';
  setenv("GOMP_SPINCOUNT", "3000", /*overwrite=*/1);
  // By its own name: started as /proc/self/exe, ps, top and pgrep would know it as "exe".
  execv(path, argv);
  execv("/proc/self/exe", argv);
}

}  // namespace spotlight::command_line
