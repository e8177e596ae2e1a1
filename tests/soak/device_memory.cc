#include "tests/soak/device_memory.h"

#include <cstdio>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace spotlight::soak {

absl::StatusOr<int64_t> ReadMegabytes(const std::string& command) {
  std::FILE* pipe = popen(absl::StrCat("( ", command, " ) 2>&1").c_str(), "re");
  if (pipe == nullptr) return absl::UnavailableError(absl::StrCat("\"", command, "\" could not be started"));
  std::string output;
  char piece[256];
  for (size_t n = 0; (n = std::fread(piece, 1, sizeof(piece), pipe)) > 0;) output.append(piece, n);
  const int status = pclose(pipe);
  int64_t megabytes = 0;
  if (status == 0 && absl::SimpleAtoi(output, &megabytes) && megabytes >= 0) return megabytes;
  absl::StripTrailingAsciiWhitespace(&output);
  return absl::UnavailableError(absl::StrCat("\"", command, "\" gave no number of MB: ", output));
}

std::string WrongInDeviceMemory(const absl::StatusOr<int64_t>& warm, const absl::StatusOr<int64_t>& rest,
                                int64_t bound_mb) {
  if (!warm.ok()) return std::string(warm.status().message());
  if (!rest.ok()) return std::string(rest.status().message());
  if (*rest <= *warm + bound_mb) return "";
  return absl::StrCat("device memory grew from ", *warm, " MB to ", *rest, " MB between two moments without a request");
}

}  // namespace spotlight::soak
