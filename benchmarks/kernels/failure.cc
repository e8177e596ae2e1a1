#include "benchmarks/kernels/failure.h"

#include <cstdio>
#include <cstdlib>

namespace spotlight::benchmarks {

void Fail(const std::string& message) {
  std::fflush(stdout);
  std::fprintf(stderr, "FAILED: %s\n", message.c_str());
  std::exit(1);
}

void Check(const absl::Status& status) {
  if (!status.ok()) Fail(status.ToString());
}

}  // namespace spotlight::benchmarks
