// What attention of a long prompt takes beside a library's attention on contiguous keys, on a GPU: keys and values out
// of their pages, and one result out of results on parts of the keys.
//
// GatherPages copies tokens [begin, end) of a sequence:
//   page_table  [>= ceil(end / P)]  int32
//   keys        [Hkv, end - begin, D]  dtype  out
//   values      [Hkv, end - begin, D]  dtype  out
// Values of pages in e4m3 are rounded to bf16. Cost reads and writes 2 * Hkv * D elements a token.
//
// MergeAttention: softmax over the union of the parts' keys. With each part's out_i and lse_i, the natural logarithm of
// its sum of exponentials,
//   out = sum_i w_i out_i,  w = softmax(lse),  lse = log sum_i exp(lse_i)
//   parts[i].out  [T, Hq, D]  dtype
//   parts[i].lse  [Hq, T]     float
//   out           [T, Hq, D]  dtype  out; may be a part's
//   lse           [Hq, T]     float  out; null: not wanted; may be a part's
// Sums in fp32, in the order of the parts. Cost reads the parts once and writes out.
//
// bf16 or fp16; deterministic. Alignment: 16 bytes.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/execution.h"
#include "kernels/layout.h"

namespace spotlight::kernels {

struct GatherPagesParams {
  Execution execution;  // CUDA
  DType dtype = DType::kBF16;
  int32_t num_kv_heads = 0, head_dim = 0;
  int32_t begin = 0, end = 0;

  LayerPages pages;
  const int32_t* page_table = nullptr;
  void* keys = nullptr;
  void* values = nullptr;
};

absl::Status GatherPages(const GatherPagesParams& params);

inline constexpr int32_t kMaxAttentionParts = 6;

struct AttentionPart {
  const void* out = nullptr;
  const float* lse = nullptr;
};

struct MergeAttentionParams {
  Execution execution;  // CUDA
  DType dtype = DType::kBF16;
  int32_t num_tokens = 0;  // T
  int32_t num_q_heads = 0, head_dim = 0;
  int32_t num_parts = 0;

  AttentionPart parts[kMaxAttentionParts];
  void* out = nullptr;
  float* lse = nullptr;
};

absl::Status MergeAttention(const MergeAttentionParams& params);

}  // namespace spotlight::kernels
