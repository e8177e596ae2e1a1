// One decode step of Spotlight attention: scores every candidate of a row by its code, selects the K best exactly, and
// attends to them, the sinks and the recent tokens.
//
//   q            [B, Hq, D]           dtype   rotated queries
//   planes       [B, Hkv, J, W]       uint32  from encode_and_append
//   page_table   [B, max_pages]       int32   entries >= 0; the tail past a row's pages is unspecified
//   context_len  [B]                  int32   S, the current token included; 0: a padding row, its output is zero
//   num_select   [B]                  int32   K of the row (kernels/budget.h); 0: attend to everything; above C: C
//   out          [B, Hq, D]           dtype   out
//   selected     [B, Hkv, max_select] int32   out, optional: chosen candidates' token indices, ascending; tail -1;
//                                             those past max_select are dropped
//   num_selected [B, Hkv]             int32   out, optional
//
// raw score of a key: sum_j a_j * popc(~(code ^ plane_j)), a_j = 2^j for j < J - 1, a_{J-1} = top_plane_weight; int16.
// Candidates are [sink_tokens, S - recent_tokens). Selection is by (raw descending, index ascending): with the
// prefilter the best min(C, kPrefilterFactor * K) by the score of word 0 alone go on, and the K best of those by the
// full score. Deterministic: a row's result depends on its own inputs and length only, never on the batch or the grid.
// Cost reads, per row and KV head: S * 4 * W bytes of codes (prefiltered: S * 4 + the survivors' codes) and
// (K + sinks + recent) * 2 * D elements.
// Alignment: q and out 16 bytes; planes what every row and head's share of them keeps of 16 bytes.
// Reference: kernels/reference/sparse_decode.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/execution.h"
#include "kernels/layout.h"

namespace spotlight::kernels {

// Seconds spent in each stage of one call as one critical path; on CUDA as one block's clock reads them, from when the
// kernel before has ended.
struct SparseDecodeStages {
  double score = 0, select = 0, attend = 0;
  uint64_t begin_ns = 0, end_ns = 0;  // of that block's stages, by the device's clock; on the CPU 0
};

struct SparseDecodeParams {
  Execution execution;
  DType dtype = DType::kF32;
  int32_t num_rows = 0;  // B
  int32_t num_q_heads = 0, num_kv_heads = 0, head_dim = 0;
  int32_t hash_words = 4, num_planes = 4;
  int32_t top_plane_weight = 8;  // 2^(J-1) for the asymmetric form, G - (2^(J-1) - 1) for the symmetric one
  float softmax_scale = 0;       // usually D^-0.5
  bool prefilter = false;

  const void* q = nullptr;
  const uint32_t* planes = nullptr;
  LayerPages pages;
  const int32_t* page_table = nullptr;
  int32_t max_pages = 0;  // row stride of page_table
  const int32_t* context_len = nullptr;
  const int32_t* num_select = nullptr;
  int32_t sink_tokens = kSinkTokens, recent_tokens = kRecentTokens;
  int32_t max_context = 0;  // no row of this call is longer; sizes the workspace; <= max_pages * P

  void* out = nullptr;
  int32_t* selected = nullptr;
  int32_t max_select = 0;  // row stride of selected
  int32_t* num_selected = nullptr;
  SparseDecodeStages* stage_seconds = nullptr;  // out, optional, on the op's device

  // CUDA: the stream's previous kernel is this step's EncodeAndAppend, which appended one token to each row's sequence,
  // the row's newest; all else that this call reads was complete before that kernel began. This call then begins while
  // that one still runs, and must not run beside another such call on another stream of the device.
  bool overlap_encode = false;
  // On the device, 256-byte aligned, zeroed before its first use and then for SparseDecode alone: calls of every shape
  // leave zero what they need zeroed.
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
};

// What SparseDecode needs for up to max_rows rows of up to max_context tokens; 0 on the CPU, where threads keep
// scratch.
size_t SparseDecodeWorkspaceBytes(DeviceKind device, int32_t max_rows, int32_t max_context, int32_t num_q_heads,
                                  int32_t num_kv_heads, int32_t head_dim);

// INVALID_ARGUMENT names the field at fault, before any work. CPU: returns when done. CUDA: enqueued on the stream.
absl::Status SparseDecode(const SparseDecodeParams& params);

}  // namespace spotlight::kernels
