#include "engine/cache_size.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/page_pool.h"
#include "kernels/layout.h"

namespace spotlight::engine {
namespace {

constexpr double kCpuShare = 0.25;
constexpr double kGpuShare = 0.90;
constexpr int64_t kMaxPages = int64_t{1} << 30;

int64_t MiB(int64_t bytes) {
  return bytes >> 20;
}

absl::StatusOr<int32_t> PagesAsTold(const CacheSizing& sizing, int64_t page_bytes, at::DeviceType device) {
  const int64_t pages = PagesFor(sizing.max_tokens);
  if (pages > kMaxPages) {
    return absl::InvalidArgumentError(absl::StrCat("max_tokens_in_cache: must be at most ",
                                                   kMaxPages * kernels::kPageTokens, ", got ", sizing.max_tokens));
  }
  // Not added up, which could overflow.
  const int64_t left = std::max<int64_t>(0, sizing.available_bytes - sizing.scratch_bytes);
  if (device != at::kCPU && pages > left / page_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a KV cache of ", sizing.max_tokens, " tokens (--max-tokens-in-cache) takes ",
                     MiB(pages * page_bytes), " MiB of device memory, and steps (--max-step-tokens, --max-running) ",
                     MiB(sizing.scratch_bytes), " MiB, but ", MiB(sizing.available_bytes), " MiB are free"));
  }
  return static_cast<int32_t>(pages);
}

}  // namespace

absl::StatusOr<int32_t> NumCachePages(const CacheSizing& sizing, const KvCacheShape& shape, at::ScalarType dtype,
                                      at::DeviceType device) {
  const int64_t page_bytes = KvBytesPerPage(shape, dtype) + CodeBytesPerPage(shape);
  if (sizing.max_tokens > 0) return PagesAsTold(sizing, page_bytes, device);
  const bool is_cpu = device == at::kCPU;
  const int64_t left = std::max<int64_t>(0, sizing.available_bytes - sizing.scratch_bytes);
  const double share = sizing.memory_share > 0 ? sizing.memory_share : is_cpu ? kCpuShare : kGpuShare;
  int64_t pages = std::min(static_cast<int64_t>(share * static_cast<double>(left)) / page_bytes, kMaxPages);
  if (is_cpu) pages = std::min(pages, PagesFor<int64_t>(sizing.max_context) * sizing.max_running);
  if (pages < 2) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for a KV cache: a page of ", kernels::kPageTokens,
                                                     " tokens takes ", page_bytes, " bytes; ", sizing.available_bytes,
                                                     " are free, of which steps (--max-step-tokens, --max-running) "
                                                     "take ",
                                                     sizing.scratch_bytes, ", and ", share,
                                                     " of the rest may be taken (--cache-memory-share)"));
  }
  return static_cast<int32_t>(pages);
}

}  // namespace spotlight::engine
