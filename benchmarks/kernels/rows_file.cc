#include "benchmarks/kernels/rows_file.h"

#include <ATen/cuda/CUDAContext.h>
#include <torch/version.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "benchmarks/kernels/failure.h"

namespace spotlight::benchmarks {

void WriteRows(const char* path, const std::vector<std::string>& rows) {
  if (path == nullptr) return;
  std::ofstream file(path);
  file << "{\"device\": \"" << at::cuda::getCurrentDeviceProperties()->name << "\", \"torch\": \"" << TORCH_VERSION
       << "\", \"rows\": [\n  " << absl::StrJoin(rows, ",\n  ") << "\n]}\n"
       << std::flush;
  if (!file) Fail(absl::StrCat("cannot write ", path));
}

}  // namespace spotlight::benchmarks
