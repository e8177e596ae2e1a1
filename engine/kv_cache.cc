#include "engine/kv_cache.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/ops/tensor.h"

namespace spotlight::engine {

int64_t KvBytesPerPage(const KvCacheShape& shape, at::ScalarType dtype) {
  const size_t token_bytes = shape.e4m3
                                 ? kernels::E4m3KvBytesPerToken(shape.num_kv_heads, shape.head_dim)
                                 : kernels::KvBytesPerToken(shape.num_kv_heads, shape.head_dim, ToKernelDType(dtype));
  return int64_t{kernels::kPageTokens} * shape.num_layers * static_cast<int64_t>(token_bytes);
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
  cache.kv_scale_.resize(shape.num_layers);
  cache.codes_.resize(shape.num_layers);
  cache.prefix_.resize(shape.num_layers);
  try {
    const auto options = at::TensorOptions().dtype(shape.e4m3 ? at::kFloat8_e4m3fn : dtype).device(device);
    for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
      cache.kv_[layer] = at::empty({num_pages, shape.num_kv_heads, kernels::kPageTokens, 2, shape.head_dim}, options);
      if (!shape.e4m3) continue;
      cache.kv_scale_[layer] =
          at::empty({num_pages, shape.num_kv_heads, kernels::kPageTokens, 2}, options.dtype(at::kFloat));
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
  if (kv_scale_[layer].defined()) pages.kv_scale = kv_scale_[layer].data_ptr<float>();
  if (codes_[layer].defined()) {
    pages.codes = static_cast<uint32_t*>(codes_[layer].data_ptr());
    pages.prefix = static_cast<uint32_t*>(prefix_[layer].data_ptr());
  }
  return pages;
}

}  // namespace spotlight::engine
