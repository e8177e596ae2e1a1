// One decode step of full attention over pages: what layers without a hash, short contexts and dense requests use, and
// (on the CPU in fp32) what makes prefill exactly equal to decode: each prompt token is a row of its own length.
//
//   q            [B, Hq, D]       dtype  rotated queries
//   page_table   [B, max_pages]   int32  as in sparse_decode.h
//   context_len  [B]              int32  tokens to attend to, the current one included; 0: padding, the output is zero
//   out          [B, Hq, D]       dtype  out
//
// Deterministic: split boundaries and the order of the combine depend on the row's own length only.
// Cost reads B * Hkv * S * 2 * D elements; memory bound.
// Alignment: q and out 16 bytes.
// Reference: kernels/reference/dense_decode.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/execution.h"
#include "kernels/layout.h"

namespace spotlight::kernels {

struct DenseDecodeParams {
  Execution execution;
  DType dtype = DType::kF32;
  int32_t num_rows = 0;  // B
  int32_t num_q_heads = 0, num_kv_heads = 0, head_dim = 0;
  float softmax_scale = 0;

  const void* q = nullptr;
  LayerPages pages;
  const int32_t* page_table = nullptr;
  // Row r reads page_table[(r / rows_per_table) * max_pages]: 1 for decode; T for a prompt's T rows, which share one.
  int32_t rows_per_table = 1;
  int32_t max_pages = 0;
  const int32_t* context_len = nullptr;
  int32_t max_context = 0;

  void* out = nullptr;
  bool overlap_encode = false;  // as in sparse_decode.h
  void* workspace = nullptr;    // 256-byte aligned; contents unspecified before and after
  size_t workspace_bytes = 0;
};

size_t DenseDecodeWorkspaceBytes(DeviceKind device, int32_t max_rows, int32_t max_context, int32_t num_q_heads,
                                 int32_t num_kv_heads, int32_t head_dim);

absl::Status DenseDecode(const DenseDecodeParams& params);

}  // namespace spotlight::kernels
