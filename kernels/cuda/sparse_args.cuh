// What a launch of sparse_decode is told, and the parts of its workspace.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/sparse_plan.h"
#include "kernels/sparse_decode.h"

namespace spotlight::kernels::cuda {

inline constexpr int kSparseThreads = 32 * kSparseWarps;
// Places of a block's tokens, until its warps fetch them.
inline constexpr int kMaxEntries = 3072;
// A page whose scores are in shared memory, and its number.
inline constexpr int kScoredPageBytes = 2 * kPageTokens + 4;

struct SparseArgs {
  int32_t num_rows, num_q_heads, num_kv_heads, hash_words, num_planes, top_plane_weight;
  float scale_log2;  // softmax_scale * log2(e)
  bool prefilter;

  // Of the launch's rows.
  const void* q;
  const uint32_t* planes;
  const void* kv;
  const float* kv_scale;
  const uint32_t* codes;
  const uint32_t* prefix;
  const int32_t* page_table;
  int32_t max_pages;
  const int32_t* context_len;
  const int32_t* num_select;
  int32_t sink_tokens, recent_tokens;
  void* out;
  int32_t* selected;
  int32_t max_select;
  int32_t* num_selected;
  SparseDecodeStages* stages;
  bool adds_stages;  // to those of the launches before

  int32_t max_runs;                   // of a (row, KV head)
  int32_t max_teams_log2;             // of a block
  int32_t num_prefix_bins, num_bins;  // scores of one word, of all words

  // Shared memory of a block, in this order: its runs; with many of them its tokens; a histogram for each team, whose
  // place the tokens take otherwise; sinks and recent tokens; scores, then numbers of their pages; codes on their way,
  // ring_bytes for each warp. Tiles on their way, tile_ring_bytes for each warp, come over what follows the tokens.
  int32_t run_bytes, entry_bytes, histogram_bytes, counting_bytes, score_pages, ring_bytes, tile_ring_bytes;
  int32_t num_prefetch_pages;  // of a warp, while the kernel before runs

  int32_t row_pages;                      // pages of the longest row, to a multiple of 16: stride of what follows
  uint32_t* counters;                     // [rows, Hkv, kNumRowCounters], zero
  int32_t *prefix_histogram, *histogram;  // [rows, Hkv, bins], zero: running sums, best score first
  int32_t *prefix_columns, *columns;      // [runs, bins]: each run's own
  uint16_t* scores;                       // [rows, Hkv, row_pages, P]: what shared memory cannot hold
  uint16_t* lists;                        // [rows, Hkv, row_pages, P]: the chosen of runs that share them out
  float* partials;                        // [runs, heads, D]: weighted values, heads to a multiple of 8
  float *shifts, *sums;                   // [runs, heads]
};

}  // namespace spotlight::kernels::cuda
