// The device memory of the paged KV cache: keys, values and hash codes of every layer, in kernels/layout.h's layout.
// Who owns which page is the scheduler's business (page_pool.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/layout.h"

namespace spotlight::engine {

struct KvCacheShape {
  int32_t num_layers = 0, num_kv_heads = 0, head_dim = 0;
  int32_t hash_words = 0;              // 0: no codes
  std::vector<int32_t> hashed_layers;  // layers with codes
  bool e4m3 = false;                   // keys and values, with their scales, whatever the dtype beside it
};

// All layers: keys and values, scales included; codes.
int64_t KvBytesPerPage(const KvCacheShape& shape, at::ScalarType dtype);
int64_t CodeBytesPerPage(const KvCacheShape& shape);

// Thread-compatible.
class KvCache {
 public:
  // RESOURCE_EXHAUSTED when the device has no room. Pages are not cleared: nothing reads a slot before it is written.
  static absl::StatusOr<KvCache> Create(const KvCacheShape& shape, int32_t num_pages, at::ScalarType dtype,
                                        at::Device device);

  kernels::LayerPages layer(int32_t layer) const;
  int32_t num_layers() const { return static_cast<int32_t>(kv_.size()); }
  // [pages, Hkv, P, 2, D]
  const at::Tensor& kv(int32_t layer) const { return kv_[layer]; }
  // [pages, Hkv, P, 2] float; undefined where keys and values are not e4m3.
  const at::Tensor& kv_scale(int32_t layer) const { return kv_scale_[layer]; }

 private:
  KvCache() = default;
  std::vector<at::Tensor> kv_, kv_scale_;
  std::vector<at::Tensor> codes_, prefix_;  // undefined in layers without a hash
  int32_t num_pages_ = 0;
};

}  // namespace spotlight::engine
