// Rotates a step's queries and keys, appends K, V and the keys' hash codes to their pages, and turns each decode
// row's query group into bit-planes. (Spotlight Attention, arXiv 2508.19740; the asymmetric query side is ours.)
//
//   q, k, v     [T, H, D]            dtype   pre-RoPE projections; token t's row begins at t * *_stride elements
//   *_bias      [H * D]              dtype   added first; null: none
//   inv_freq    [D / 2]              float   RoPE frequencies; pairs are (i, i + D / 2); cos and sin times rope_scale
//   positions   [T]                  int32   absolute positions
//   slots       [T]                  int64   page * P + slot; negative: a padding token, nothing is written for it
//   q_out       [T, Hq, D]           dtype   out: rotated queries
//   planes      [Tq, Hkv, J, W]      uint32  out, first Tq = num_plane_tokens tokens: plane j holds bit j of u_b
//   plane_unit  [Tq, Hkv]            float   out: c * rms(w), rms floored at 1e-6
// and, in place, what the slots' places in the pages hold.
//
// Alignment: q, k, v, their biases, q_out and the hash's weights 16 bytes; strides multiples of 16 bytes; planes what
// every token and head's share of them keeps of 16 bytes. On CUDA the biases, inv_freq and the hash's weights may be
// read before the stream's previous kernel ends: it must not write them.
//
// A token's results do not depend on the tokens around it, bit for bit, nor a key's code on whether its token has
// planes.
//
// Key encoder, per KV head, on the rotated key as stored, rounded to dtype (a key in e4m3: its values, e4m3 * scale,
// rounded to dtype): h = silu(k W1 + b1) W2 + b2 + k S; bit_b =
// h_b >= 0. Query encoder, per KV head, on the group's rotated queries side by side (x [G * D]): w = the same form with
// its own weights; n_b = clamp(2 * floor(w_b / plane_unit) + 1, +-(2^J - 1)), u_b = (n_b + 2^J - 1) / 2.
// An estimated logit is logit_scale * plane_unit / 2 * (2 * raw - 32 * W * (2^J - 1)), raw as in sparse_decode.h.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/execution.h"
#include "kernels/layout.h"

namespace spotlight::kernels {

// One encoder of every KV head of a layer. in = D (key) or G * D (query; row g * D + i is dimension i of query head
// h * G + g), N = 32 * W. hidden is a multiple of 16, at most 4096; hidden == 0: the linear encoder, h = x S + b2, w1,
// b1 and w2 null.
struct EncoderWeights {
  int32_t hidden = 0;
  const void* w1 = nullptr;    // [Hkv, in, hidden]
  const void* b1 = nullptr;    // [Hkv, hidden]
  const void* w2 = nullptr;    // [Hkv, hidden, N]
  const void* b2 = nullptr;    // [Hkv, N]
  const void* skip = nullptr;  // [Hkv, in, N]
};

// A layer's hash. All matrices in weight_dtype (kF32 or kBF16).
struct HashWeights {
  DType weight_dtype = DType::kF32;
  int32_t hash_words = 4;     // W
  int32_t num_planes = 4;     // J
  float plane_step = 0.335f;  // c
  EncoderWeights key;
  EncoderWeights query;
};

struct EncodeAndAppendParams {
  Execution execution;
  DType dtype = DType::kF32;     // of q, k, v, biases, q_out and pages that are not e4m3
  int32_t num_tokens = 0;        // T; 0 does nothing
  int32_t num_plane_tokens = 0;  // Tq <= T
  int32_t num_q_heads = 0, num_kv_heads = 0, head_dim = 0;

  const void *q = nullptr, *k = nullptr, *v = nullptr;
  int64_t q_stride = 0, k_stride = 0, v_stride = 0;
  const void *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr;
  const float* inv_freq = nullptr;
  float rope_scale = 1.0f;
  const int32_t* positions = nullptr;
  const int64_t* slots = nullptr;

  const HashWeights* hash = nullptr;  // host struct, pointers on the device; null: no codes, no planes
  LayerPages pages;

  void* q_out = nullptr;
  uint32_t* planes = nullptr;
  float* plane_unit = nullptr;
  uint64_t* start_ns = nullptr;  // out, optional, CUDA: the device's clock when the kernel before had ended
};

// INVALID_ARGUMENT names the field at fault, before any work. CPU: returns when done. CUDA: enqueued on the stream.
absl::Status EncodeAndAppend(const EncodeAndAppendParams& params);

}  // namespace spotlight::kernels
