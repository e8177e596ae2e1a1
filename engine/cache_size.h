// How many pages the KV cache gets.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/kv_cache.h"

namespace spotlight::engine {

struct CacheSizing {
  int64_t max_tokens = 0;       // as told; 0: from the free memory
  double memory_share = 0;      // of the free memory, (0, 1]; 0: 0.25 of a CPU's, 0.9 of a GPU's
  int64_t available_bytes = 0;  // AvailableBytes (device.h), with all that stays loaded and nothing else
  int64_t scratch_bytes = 0;    // what of them steps need beside the cache
  int32_t max_running = 1;      // sequences of max_context tokens that can use the cache at once
  int32_t max_context = 1;
};

// As told, rounded up to pages; else a share of the free memory, on a CPU never more than max_running full contexts can
// use. (A GPU's memory has nobody else to use it: what running sequences leave keeps prefixes.) RESOURCE_EXHAUSTED when
// not even two pages fit, or, on a GPU, less than was told; a CPU's pages cost nothing until they are first used.
absl::StatusOr<int32_t> NumCachePages(const CacheSizing& sizing, const KvCacheShape& shape, at::ScalarType dtype,
                                      at::DeviceType device);

}  // namespace spotlight::engine
