// What a launch of sparse_decode is told, and the parts of its workspace.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/sparse_plan.h"
#include "kernels/sparse_decode.h"

namespace spotlight::kernels::cuda {

inline constexpr int kSparseThreads = 32 * kSparseWarps;
// Tokens that wait for a warp to attend to them, or to score them in full.
inline constexpr int kQueueEntries = 512;

struct SparseArgs {
  int32_t num_rows, num_q_heads, num_kv_heads, hash_words, num_planes, top_plane_weight;
  float scale_log2;  // softmax_scale * log2(e)
  bool prefilter;

  // Of the launch's rows.
  const void* q;
  const uint32_t* planes;
  const void* kv;
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

  int32_t max_units;                  // of a (row, KV head)
  int32_t num_prefix_bins, num_bins;  // scores of one word, of all words
  int32_t histogram_bytes;            // shared memory: the histogram comes first
  // Shared memory of a warp, in this order: its queue; its units' masks and pages; their scores; codes on their way.
  // Tokens on their way come over scores and codes.
  int32_t mask_bytes, score_bytes, ring_bytes;
  int32_t row_pages;                      // pages of the longest row, to a multiple of 16: stride of what follows
  uint32_t* counters;                     // [rows, Hkv, kNumRowCounters], zero
  int32_t *prefix_histogram, *histogram;  // [rows, Hkv, bins], zero
  uint8_t* ties;                          // [rows, Hkv, row_pages]: equal scores of each page
  uint16_t *scores, *masks;               // [rows, Hkv, row_pages, P] and [.., P / 8]: what shared memory cannot hold
  uint8_t* chosen;                        // [rows, Hkv, row_pages * P / 8]: bits, when `selected` is asked for
  float* partials;                        // [units, heads, D]: weighted values, heads to a multiple of 8
  float *shifts, *sums;                   // [units, heads]
};

}  // namespace spotlight::kernels::cuda
