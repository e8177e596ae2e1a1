// Judges what sparse_decode selected in one decode step against exact attention. Off the hot path: sampled steps only.
//
//   q               [B, Hq, D]            dtype  rotated queries
//   page_table      [B, max_pages]        int32  as in sparse_decode.h, like context_len and num_select
//   context_len     [B]                   int32  S, the current token included
//   num_select      [B]                   int32  K; above C: C
//   selected        [B, Hkv, max_select]  int32  candidates' token indices, ascending
//   num_selected    [B, Hkv]              int32  n, how many there are, <= max_select
//   sparse_out      [B, Hq, D]            dtype  the output to judge
//
//   recall          [B, Hkv]  float  out: share of oracle B that was selected, |selected and oracle| / K
//   iou             [B, Hkv]  float  out: |selected and oracle| / |selected or oracle|
//   candidate_mass  [B, Hkv]  float  out: massC, the selected tokens' mass over all C candidates' mass
//   oracle_mass     [B, Hkv]  float  out: massC of oracle B, the best that K tokens can reach
//   attention_mass  [B, Hkv]  float  out: mass of the sinks, the selected and the recent tokens over all S tokens' mass
//   output_error    [B, Hkv]  float  out: ||sparse_out - dense|| / ||dense|| over the group's heads, dense not rounded
//
// Alignment: q and sparse_out 16 bytes.
//
// A token's mass is its softmax weight summed over the group's G query heads; each head's softmax runs over all S
// tokens. Oracle B is the K candidates of [sink_tokens, S - recent_tokens) with the largest mass; of equal masses the
// lower index wins. Masses are fp32 (under about 2^-126 zero), so tokens whose masses agree to 1e-5 may rank either way
// against the reference, which has them in double.
//
// Where there is nothing to judge:
//   context_len 0 (padding); num_select 0 or no candidates (the row attends to everything): the ratios are 1, the error
//     0, and neither pages nor sparse_out are read;
//   num_selected 0 (an empty selection): recall, iou and candidate_mass are 0;
//   candidates of no mass at all: candidate_mass and oracle_mass are 1;
//   dense is zero: output_error is 0 where sparse_out is zero too, else infinite.
// Keys and values before context_len must be finite, slots past it are never read.
//
// Deterministic: a row's results depend on its own inputs and length only, never on the batch, the grid or the
// workspace. Cost reads B * Hkv * S * 3 * D elements: keys and values once for the dense output and the softmax sums,
// keys once more for the masses, which are then selected from.
// Reference: kernels/reference/retrieval_quality.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/execution.h"
#include "kernels/layout.h"

namespace spotlight::kernels {

struct RetrievalQualityParams {
  Execution execution;
  DType dtype = DType::kF32;
  int32_t num_rows = 0;  // B
  int32_t num_q_heads = 0, num_kv_heads = 0, head_dim = 0;
  float softmax_scale = 0;

  const void* q = nullptr;
  LayerPages pages;  // codes and prefix are not read
  const int32_t* page_table = nullptr;
  int32_t max_pages = 0;
  const int32_t* context_len = nullptr;
  const int32_t* num_select = nullptr;
  int32_t sink_tokens = kSinkTokens, recent_tokens = kRecentTokens;
  int32_t max_context = 0;  // no row of this call is longer; sizes the workspace; <= max_pages * P

  const int32_t* selected = nullptr;
  int32_t max_select = 0;  // row stride of selected
  const int32_t* num_selected = nullptr;
  const void* sparse_out = nullptr;

  float* recall = nullptr;
  float* iou = nullptr;
  float* candidate_mass = nullptr;
  float* oracle_mass = nullptr;
  float* attention_mass = nullptr;
  float* output_error = nullptr;

  // On the device, 256-byte aligned, contents unspecified. One row's worth is enough for any batch: rows go in passes
  // of as many as it holds.
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
};

// What RetrievalQuality uses for passes of max_rows rows of up to max_context tokens: about 4 * Hkv * max_context +
// min(1024, max_context / 64) * Hq * (D + 2) bytes a row, 21 MB for a million tokens of the 7B shape (28 / 4 heads).
// 0 on the CPU, where the calling thread keeps as much scratch for one row, and every thread 8 * max_context bytes.
size_t RetrievalQualityWorkspaceBytes(DeviceKind device, int32_t max_rows, int32_t max_context, int32_t num_q_heads,
                                      int32_t num_kv_heads, int32_t head_dim);

// INVALID_ARGUMENT names the field at fault, before any work. CPU: returns when done. CUDA: enqueued on the stream.
absl::Status RetrievalQuality(const RetrievalQualityParams& params);

}  // namespace spotlight::kernels
