// Causal attention of a prompt's chunk over pages, read in place: bf16 on CPUs with AVX512_BF16.
//
//   q           [T, Hq, D]   bf16   rotated queries; query t is at position context_len - T + t
//   page_table  [max_pages]  int32  the sequence's pages; the chunk's own keys and values are already in them
//   out         [T, Hq, D]   bf16   out
// Pages may be e4m3: their values are rounded to bf16 as they are read.
//
// Query t attends to tokens [0, context_len - T + t]. Slots from context_len on are never read; keys and values before
// it must be finite: a NaN among them may reach the queries that precede it in its page.
//
// Deterministic: a query's softmax runs over the pages in order, whatever chunk it came in and whoever computed it, so
// neither T nor the threads change a bit of the result. Against fp32, weights are rounded to bf16 before they multiply
// the values, and denormals count as zero.
// Compute bound: 4 * Hq * D flops for each pair of a query and a token that it sees. Scratch of the calling thread: 512
// KiB per KV head, and 4 * (D + 19) bytes per query head and token where the context exceeds 512 KiB per KV head.
// Reference: kernels/reference/prefill_attention.h.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/execution.h"
#include "kernels/layout.h"

namespace spotlight::kernels {

struct PrefillAttentionParams {
  Execution execution;
  DType dtype = DType::kBF16;
  int32_t num_tokens = 0;  // T
  int32_t num_q_heads = 0, num_kv_heads = 0, head_dim = 0;
  float softmax_scale = 0;

  const void* q = nullptr;
  LayerPages pages;
  const int32_t* page_table = nullptr;
  int32_t max_pages = 0;
  int32_t context_len = 0;  // S, the chunk included

  void* out = nullptr;
};

// Whether this machine has the operation for such arguments. There is no emulation: elsewhere it is UNIMPLEMENTED.
// Thread-safe.
bool PrefillAttentionSupported(const Execution& execution, DType dtype, int head_dim);

absl::Status PrefillAttention(const PrefillAttentionParams& params);

}  // namespace spotlight::kernels
