// How dense decode shares out a pass of rows: every (row, KV head) is cut into splits by the row's length alone, and a
// block takes every gridDim.x-th split, longest rows first, so that blocks end together whatever the lengths. Who works
// on a split never changes what it computes.
#pragma once

#include <cstdint>

#include "kernels/cuda/attend_tile.cuh"

namespace spotlight::kernels::cuda {

// Rows that one launch takes; longer batches go in several that share the workspace.
inline constexpr int kDensePassRows = 64;
// A long row is cut into a split for each of an H200's multiprocessors, shorter ones into splits worth a block each: a
// split costs a merge and a partial, so only rows too short for many are cut finer.
inline constexpr int kDenseSlots = 132, kSplitTokens = 1024, kShortSplitTokens = 256, kShortSplits = 8;

// Most splits of one (row, KV head) of up to max_context tokens.
__host__ __device__ inline int MaxSplits(int64_t max_context, int num_kv_heads) {
  const int64_t splits = (max_context + kSplitTokens - 1) / kSplitTokens;
  const int64_t short_splits = (max_context + kShortSplitTokens - 1) / kShortSplitTokens;
  const int64_t by_length = splits > kShortSplits ? splits : short_splits < kShortSplits ? short_splits : kShortSplits;
  const int by_slots = kDenseSlots / num_kv_heads;
  const int64_t most = by_length < by_slots ? by_length : by_slots;
  return most < 1 ? 1 : static_cast<int>(most);
}

// One split of one (row, KV head): tiles [first_tile, end_tile) of 16 tokens; none in a padding row.
struct Split {
  int row = 0, kv_head = 0, index = 0, num_splits = 0;
  int32_t context_len = 0, first_tile = 0, end_tile = 0;
};

// In shared memory: rows by descending length.
struct DenseSchedule {
  int32_t lengths[kDensePassRows], sorted_rows[kDensePassRows];
  int32_t first_item[kDensePassRows + 1];  // of sorted rows; items are (split, KV head) pairs
  int32_t items;

  __device__ int num_items() const { return items; }

  // All threads of a block of at least num_rows threads.
  __device__ void Build(const int32_t* context_len, int num_rows, int num_kv_heads) {
    const int row = threadIdx.x;
    if (row < num_rows) lengths[row] = context_len[row];
    __syncthreads();
    if (row < num_rows) {
      int rank = 0, first = 0;
      for (int other = 0; other < num_rows; ++other) {
        const bool before = lengths[other] > lengths[row] || (lengths[other] == lengths[row] && other < row);
        if (!before) continue;
        ++rank;
        first += num_kv_heads * MaxSplits(lengths[other], num_kv_heads);
      }
      sorted_rows[rank] = row;
      first_item[rank] = first;
      if (rank == 0) first_item[num_rows] = INT32_MAX;
      if (rank == num_rows - 1) items = first + num_kv_heads * MaxSplits(lengths[row], num_kv_heads);
    }
    __syncthreads();
  }

  // *rank: where the search begins; items are asked for in ascending order.
  __device__ Split At(int item, int num_kv_heads, int* rank) const {
    while (item >= first_item[*rank + 1]) ++*rank;
    Split split;
    split.row = sorted_rows[*rank];
    split.context_len = lengths[split.row];
    split.num_splits = MaxSplits(split.context_len, num_kv_heads);
    split.index = (item - first_item[*rank]) / num_kv_heads;
    split.kv_head = (item - first_item[*rank]) % num_kv_heads;
    const int32_t tiles = (split.context_len + kTileTokens - 1) / kTileTokens;
    const int32_t share = tiles / split.num_splits, rest = tiles % split.num_splits;
    split.first_tile = split.index * share + min(split.index, rest);
    split.end_tile = split.first_tile + share + (split.index < rest ? 1 : 0);
    return split;
  }
};

// Where the rows' tokens are.
struct PagedRows {
  const void* kv;  // LayerPages::kv
  const float* kv_scale;
  const int32_t* page_table;
  int32_t first_row;  // of the pass, for rows_per_table
  int32_t rows_per_table, max_pages, num_kv_heads;
};

// Where a warp's fills stand: tiles ahead of what it has attended to, perhaps splits ahead. A warp takes every
// kWarps-th tile of its block's splits.
template <class T, int kDim, int kWarps>
class FillCursor {
  static constexpr int kTilesPerPage = kPageTokens / kTileTokens;

 public:
  __device__ FillCursor(const PagedRows& rows, const DenseSchedule& schedule)
      : rows_(rows), schedule_(schedule), item_(blockIdx.x) {
    FindTile();
  }

  __device__ bool done() const { return item_ >= schedule_.num_items(); }
  // Of the current tile.
  __device__ const T* tokens() const {
    const int64_t slot = int64_t{page_} * rows_.num_kv_heads * kPageTokens + tile_ % kTilesPerPage * kTileTokens;
    return kv_ + slot * (2 * kDim);
  }
  __device__ const float2* scales() const {
    const int64_t elements = tokens() - static_cast<const T*>(rows_.kv);
    return reinterpret_cast<const float2*>(rows_.kv_scale) + elements / (2 * kDim);
  }
  __device__ int count() const { return min(kTileTokens, context_len_ - tile_ * kTileTokens); }
  __device__ bool newest() const { return (tile_ + 1) * kTileTokens >= context_len_; }

  __device__ void Advance() {
    tile_ += kWarps;
    if (tile_ < end_tile_) {
      page_ = table_[tile_ / kTilesPerPage];
    } else {
      item_ += gridDim.x;
      FindTile();
    }
  }

 private:
  // The warp's first tile in item_, or in the next item that has one.
  __device__ void FindTile() {
    for (; !done(); item_ += gridDim.x) {
      const Split split = schedule_.At(item_, rows_.num_kv_heads, &rank_);
      tile_ = split.first_tile + static_cast<int>(threadIdx.x / 32);
      if (tile_ >= split.end_tile) continue;
      end_tile_ = split.end_tile;
      context_len_ = split.context_len;
      kv_ = static_cast<const T*>(rows_.kv) + split.kv_head * (kPageTokens * 2 * kDim);
      table_ = rows_.page_table + int64_t{(rows_.first_row + split.row) / rows_.rows_per_table} * rows_.max_pages;
      page_ = table_[tile_ / kTilesPerPage];
      return;
    }
  }

  const PagedRows& rows_;
  const DenseSchedule& schedule_;
  int item_, rank_ = 0;
  int32_t tile_ = 0, end_tile_ = 0, context_len_ = 0;
  const T* kv_ = nullptr;  // of the KV head, in page 0
  const int32_t* table_ = nullptr;
  int32_t page_ = 0;  // looked up a tile ahead of its use
};

}  // namespace spotlight::kernels::cuda
