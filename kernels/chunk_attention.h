// Attention of a few queries of one sequence over its pages, read in place: a short piece of a prompt that is computed
// beside decode rows. Every query has a length of its own, on the device, so that one CUDA graph serves any position;
// the queries of a KV head's group are rows of one tensor core product, and the keys are split among the whole device.
//
//   q            [T, Hq, D]   dtype  rotated queries
//   page_table   [max_pages]  int32  the sequence's pages; the queries' own keys and values are already in them
//   context_len  [T]          int32  query t attends to tokens [0, context_len[t]); 0: padding, the output is zero
//   out          [T, Hq, D]   dtype  out
//
// A chunk's queries are consecutive, context_len[t] = context_len[0] + t, and padding at its end; the result is right
// for any lengths, but each query costs what the longest does. Slots from the longest on are never read. Keys and
// values before it must be finite: a NaN among them may reach queries whose context ends before it.
//
// Deterministic: split boundaries depend on T, Hkv, G and the longest length only, and partial results are combined in
// their order. Weights are rounded to dtype before they multiply the values; sums are fp32.
// Cost: 4 * Hq * D * T * S flops, T * G rounded up to 128 rows; reads Hkv * S * 2 * D elements once per 128 rows.
// Alignment: q and out 16 bytes.
// Reference: kernels/reference/prefill_attention.h, for consecutive queries.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/execution.h"
#include "kernels/layout.h"

namespace spotlight::kernels {

inline constexpr int32_t kMaxChunkQueries = 128;
// Rows, T * G of them, that are multiplied together: what is missing to a multiple costs as much.
inline constexpr int32_t kChunkBlockRows = 128;

struct ChunkAttentionParams {
  Execution execution;         // CUDA
  DType dtype = DType::kBF16;  // or fp16
  int32_t num_tokens = 0;      // T, at most kMaxChunkQueries
  int32_t num_q_heads = 0, num_kv_heads = 0, head_dim = 0;
  float softmax_scale = 0;

  const void* q = nullptr;
  LayerPages pages;  // keys and values of dtype
  const int32_t* page_table = nullptr;
  int32_t max_pages = 0;
  const int32_t* context_len = nullptr;

  void* out = nullptr;
  void* workspace = nullptr;  // 256-byte aligned; contents unspecified before and after
  size_t workspace_bytes = 0;
};

// For any T up to max_tokens.
size_t ChunkAttentionWorkspaceBytes(int32_t max_tokens, int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim);

absl::Status ChunkAttention(const ChunkAttentionParams& params);

}  // namespace spotlight::kernels
