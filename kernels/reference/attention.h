// Attention of one query head to a list of cached tokens, in double.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/layout.h"

namespace spotlight::kernels::reference {

// q and out begin at element `query_begin` of their arrays; kv_head says whose keys and values are read.
struct HeadQuery {
  const void* q = nullptr;
  int64_t query_begin = 0;
  DType dtype = DType::kF32;
  int32_t num_kv_heads = 0, kv_head = 0, head_dim = 0;
  float softmax_scale = 0;
};

// A token's place in arrays [pages, Hkv, P, ...].
int64_t EntryOf(const int32_t* page_table, int32_t token, int32_t num_kv_heads, int32_t kv_head);

// Element d of what entry `entry` holds of kv: a key (side 0) or a value (1).
double CachedElement(const LayerPages& pages, DType dtype, int64_t entry, int side, int32_t head_dim, int32_t d);

// softmax(q k^T * scale) v over `tokens`; zeros when there are none.
std::vector<double> Attend(const HeadQuery& query, const LayerPages& pages, const int32_t* page_table,
                           const std::vector<int32_t>& tokens);

}  // namespace spotlight::kernels::reference
