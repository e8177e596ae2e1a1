// A prompt chunk's attention in bf16 and fp16: LibTorch's flash attention in two parts, the past without a mask and the
// chunk causally, merged by their log-sum-exp.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace spotlight::engine {

// q          [T, Hq, D]           rotated queries of positions [context - T, context)
// kv         [pages, Hkv, P, 2, D] the layer's cache, the chunk's own keys and values included
// page_table [>= ceil(context / P)] int32
// Returns [T, Hq, D]. Gathers the sequence's K and V to contiguous scratch: 2 * Hkv * context * D elements.
at::Tensor PrefillAttention(const at::Tensor& q, const at::Tensor& kv, const at::Tensor& page_table, int64_t context,
                            double softmax_scale);

}  // namespace spotlight::engine
