#include "server/request_id.h"

#include <cstdint>
#include <random>

#include "absl/strings/str_cat.h"

namespace spotlight::server {

std::string NewRequestId() {
  thread_local std::mt19937_64 bits{[] {
    std::random_device device;
    return uint64_t{device()} << 32 | device();
  }()};
  return absl::StrCat("req-", absl::Hex(bits() >> 32, absl::kZeroPad8), absl::Hex(bits(), absl::kZeroPad16));
}

}  // namespace spotlight::server
