#include "engine/kv_cache.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/ops/tensor.h"

namespace spotlight::engine {

int64_t KvBytesPerPage(const KvCacheShape& shape, at::ScalarType dtype) {
  return int64_t{kernels::kPageTokens} * shape.num_layers *
         static_cast<int64_t>(kernels::KvBytesPerToken(shape.num_kv_heads, shape.head_dim, ToKernelDType(dtype)));
}

int64_t CodeBytesPerPage(const KvCacheShape& shape) {
  if (shape.hash_words == 0) return 0;
  return int64_t{kernels::kPageTokens} * static_cast<int64_t>(shape.hashed_layers.size()) *
         static_cast<int64_t>(kernels::CodeBytesPerToken(shape.num_kv_heads, shape.hash_words));
}

absl::StatusOr<KvCache> KvCache::Create(const KvCacheShape& shape, int32_t num_pages, at::ScalarType dtype,
                                        at::Device device) {
  KvCache cache;
  cache.num_pages_ = num_pages;
  cache.kv_.resize(shape.num_layers);
  cache.codes_.resize(shape.num_layers);
  cache.prefix_.resize(shape.num_layers);
  try {
    const auto options = at::TensorOptions().dtype(dtype).device(device);
    for (auto& kv : cache.kv_) {
      kv = at::empty({num_pages, shape.num_kv_heads, kernels::kPageTokens, 2, shape.head_dim}, options);
    }
    const auto words = at::TensorOptions().dtype(at::kInt).device(device);
    if (shape.hash_words > 0) {
      for (int32_t layer : shape.hashed_layers) {
        cache.codes_[layer] = at::empty({num_pages, shape.num_kv_heads, kernels::kPageTokens, shape.hash_words}, words);
        cache.prefix_[layer] = at::empty({num_pages, shape.num_kv_heads, kernels::kPageTokens}, words);
      }
    }
  } catch (const c10::Error& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("KV cache of ", num_pages, " pages (",
                     (KvBytesPerPage(shape, dtype) + CodeBytesPerPage(shape)) * num_pages >> 20,
                     " MiB) does not fit: ", error.what_without_backtrace()));
  }
  return cache;
}

kernels::LayerPages KvCache::layer(int32_t layer) const {
  kernels::LayerPages pages;
  pages.kv = kv_[layer].data_ptr();
  pages.num_pages = num_pages_;
  if (codes_[layer].defined()) {
    pages.codes = static_cast<uint32_t*>(codes_[layer].data_ptr());
    pages.prefix = static_cast<uint32_t*>(prefix_[layer].data_ptr());
  }
  return pages;
}

}  // namespace spotlight::engine
