#include "engine/gpu_presence.h"

#include <glob.h>

#include <cstdlib>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace spotlight::engine {
namespace {

// Empty: there is none.
std::string FirstMatch(const std::string& pattern) {
  glob_t found = {};
  const bool any = glob(pattern.c_str(), 0, nullptr, &found) == 0 && found.gl_pathc > 0;
  std::string path = any ? found.gl_pathv[0] : "";
  globfree(&found);
  return path;
}

}  // namespace

std::vector<std::string> GpuPathPatterns() {
  return {"/dev/nvidia[0-9]*", "/proc/driver/nvidia/gpus/*"};
}

absl::StatusOr<std::string> ReasonForCpu(const std::string& cuda_error, const std::vector<std::string>& gpu_paths) {
  for (const char* const name : {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"}) {
    const char* const value = std::getenv(name);
    if (value == nullptr) continue;
    const std::string text = value;
    if (text.empty() || text == "none" || text == "-1") return absl::StrCat(name, " is \"", text, "\"");
  }
  for (const std::string& pattern : gpu_paths) {
    const std::string path = FirstMatch(pattern);
    if (path.empty()) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("device: auto: this machine has an NVIDIA GPU (", path, "), and CUDA cannot use it: ", cuda_error,
                     ". Give the program a GPU that works (nvidia-smi must list it in the same container), or "
                     "serve on the CPU with --device cpu"));
  }
  return std::string("no NVIDIA GPU is there");
}

}  // namespace spotlight::engine
