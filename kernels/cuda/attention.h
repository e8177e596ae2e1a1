// Attention of rows to lists of cached tokens on the device: the one path of dense_decode and of sparse_decode.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/layout.h"

namespace spotlight::kernels::cuda {

// Rows that one pass of launches takes; longer batches go in passes that share the workspace.
inline constexpr int32_t kPassRows = 256;
// A row's list is cut into at most this many splits, at boundaries that depend on its length only.
inline constexpr int32_t kMaxSplits = 32;

// Device pointers; those of a batch point at the pass's first row.
struct AttentionArgs {
  DType dtype;
  int32_t num_q_heads, num_kv_heads, head_dim;
  float softmax_scale;
  const void* q;   // [rows, Hq, D]
  const void* kv;  // LayerPages::kv
  const int32_t* page_table;
  int32_t first_row;  // of the pass, for rows_per_table
  int32_t rows_per_table, max_pages;
  const int32_t* context_len;  // [rows]
  // Retrieval; num_select null: every row attends to everything.
  const int32_t* num_select;  // [rows]
  int32_t sink_tokens, recent_tokens;
  const int32_t* selected;  // [rows, Hkv, selected_stride]
  int64_t selected_stride;
  void* out;        // [rows, Hq, D]
  float* partials;  // [rows, Hq, kMaxSplits, D + 2]: weighted values, largest logit, sum of weights
};

size_t PartialBytes(int32_t max_rows, int32_t num_q_heads, int32_t head_dim);

void LaunchAttention(const AttentionArgs& args, int32_t num_rows, LaunchSequence* sequence);

}  // namespace spotlight::kernels::cuda
