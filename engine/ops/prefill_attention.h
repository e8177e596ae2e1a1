// A prompt chunk's attention in bf16 and fp16 by LibTorch's kernels: keys and values are gathered from their pages part
// by part, each part is attended to by cuDNN (blocks of a GPU that has it) or flash attention, and the results are
// merged by their log-sum-exp. See prefill_blocks.h for the parts.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "absl/status/status.h"
#include "engine/ops/prefill_blocks.h"

namespace spotlight::engine {

// q          [T, Hq, D]           rotated queries of positions [context - T, context)
// kv         [pages, Hkv, P, 2, D] the layer's cache, the chunk's own keys and values included
// kv_scale   [pages, Hkv, P, 2]    float, where kv is e4m3: its values are rounded to q's type; else undefined
// page_table [>= ceil(context / P)] int32
// out        [T, Hq, D]           contiguous
// On the current stream of q's device; LibTorch's errors are thrown.
absl::Status PrefillAttention(const at::Tensor& q, const at::Tensor& kv, const at::Tensor& kv_scale,
                              const at::Tensor& page_table, int64_t context, double softmax_scale,
                              const PrefillBlocks& blocks, const at::Tensor& out);

// What that allocates on a GPU at most, for chunks of `tokens` of contexts up to `max_context`.
int64_t PrefillAttentionBytes(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim, int64_t tokens,
                              int64_t max_context, const PrefillBlocks& blocks);

}  // namespace spotlight::engine
