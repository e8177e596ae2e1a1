// Attention of rows to lists of cached tokens: the one path of dense_decode, of sparse_decode's chosen tokens and of
// its dense rows.
//
// A row's list is cut into splits whose boundaries depend on its length only; each split is a running softmax over
// blocks of kBlockTokens, and splits are merged in order. Who computes which split changes no bit of the result.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/execution.h"
#include "kernels/token_list.h"

namespace spotlight::kernels::cpu {

struct AttentionRow {
  const int32_t* page_table = nullptr;
  TokenList tokens;
};

struct AttentionShape {
  DType dtype = DType::kF32;
  int32_t num_q_heads = 0, num_kv_heads = 0, head_dim = 0;
  float softmax_scale = 0;
};

// row_heads [num_rows * Hkv], row-major: what each (row, KV head) attends to. q, out [num_rows, Hq, D].
void AttendRows(const Execution& execution, const KernelTable& kernels, const AttentionShape& shape, const void* q,
                const LayerPages& pages, const AttentionRow* row_heads, int64_t num_rows, void* out);

}  // namespace spotlight::kernels::cpu
