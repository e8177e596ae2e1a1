// How many pages the KV cache gets.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/kv_cache.h"

namespace spotlight::engine {

struct CacheSizing {
  int64_t max_tokens = 0;     // as told; 0: from the free memory
  double memory_share = 0;    // of the free memory, (0, 1]; 0: 0.25 of a CPU's, 0.9 of a GPU's
  int64_t scratch_bytes = 0;  // what steps need beside the cache
  int32_t max_running = 1;    // sequences of max_context tokens that can use the cache at once
  int32_t max_context = 1;
};

// As told, rounded up to pages; else a share of the free memory (a CPU's pages cost nothing until they are first used),
// never more than max_running full contexts can use. RESOURCE_EXHAUSTED when not even two pages fit.
absl::StatusOr<int32_t> NumCachePages(const CacheSizing& sizing, const KvCacheShape& shape, at::ScalarType dtype,
                                      at::Device device);

}  // namespace spotlight::engine
