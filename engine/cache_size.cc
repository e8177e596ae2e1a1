#include "engine/cache_size.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/device.h"
#include "engine/page_pool.h"
#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

constexpr double kCpuShare = 0.25;
constexpr double kGpuShare = 0.90;
constexpr int64_t kMaxPages = int64_t{1} << 30;

}  // namespace

absl::StatusOr<int32_t> NumCachePages(const CacheSizing& sizing, const KvCacheShape& shape, at::ScalarType dtype,
                                      at::Device device) {
  if (sizing.max_tokens > 0) {
    const int64_t pages = PagesFor(sizing.max_tokens);
    if (pages > kMaxPages) {
      return absl::InvalidArgumentError(absl::StrCat("max_tokens_in_cache: must be at most ",
                                                     kMaxPages * kernels::kPageTokens, ", got ", sizing.max_tokens));
    }
    return static_cast<int32_t>(pages);
  }
  const int64_t page_bytes = KvBytesPerPage(shape, dtype) + CodeBytesPerPage(shape);
  const double available = static_cast<double>(AvailableBytes(device)) - static_cast<double>(sizing.scratch_bytes);
  const double share = sizing.memory_share > 0 ? sizing.memory_share : device.is_cuda() ? kGpuShare : kCpuShare;
  const auto fitting = static_cast<int64_t>(share * std::max(0.0, available)) / page_bytes;
  const int64_t pages = std::min({fitting, PagesFor<int64_t>(sizing.max_context) * sizing.max_running, kMaxPages});
  if (pages < 2) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for a KV cache: a page of ", kernels::kPageTokens,
                                                     " tokens takes ", page_bytes, " bytes, and ",
                                                     static_cast<int64_t>(std::max(0.0, available)), " are free"));
  }
  return static_cast<int32_t>(pages);
}

}  // namespace spotlight::engine
