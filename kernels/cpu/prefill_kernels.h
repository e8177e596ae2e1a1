// The inner loops of prefill_attention, compiled for AVX512_BF16. Like kernel_table.h, all that translation units of
// different instruction sets share.
//
// Rows are queries of one KV head's group, heads of a token side by side. They go in tiles of kTileRows: as many as let
// a tile's logits for 16 * 4 keys stay in registers.
#pragma once

#include <cstdint>

#include "kernels/layout.h"

namespace spotlight::kernels::cpu {

inline constexpr int kTileRows = 6;

// A page of one KV head as the dot-product instruction wants it, pairs of bf16 in a word:
//   keys    [D / 2, P]  word (i, t) holds dimensions 2i and 2i + 1 of token t
//   values  [P / 2, D]  word (i, d) holds tokens 2i and 2i + 1 of dimension d
// Slots that hold no token are zero.
inline constexpr int64_t PackedPageWords(int head_dim) {
  return int64_t{kPageTokens} * head_dim;
}

// A tile's running softmax in base 2: 16 lanes of row maxima, [kTileRows, 16] partial sums, [kTileRows, D] values.
inline constexpr int kTileHeaderFloats = 16 + 16 * kTileRows;
inline constexpr int TileFloats(int head_dim) {
  return kTileHeaderFloats + kTileRows * head_dim;
}

struct PrefillTile {
  int num_rows = 0;                     // 1 .. kTileRows
  const uint16_t* q[kTileRows] = {};    // a row's query, [D]
  uint16_t* out[kTileRows] = {};        // a row's output, [D]
  int32_t num_visible[kTileRows] = {};  // tokens that the row attends to; ascending
  float* state = nullptr;               // 64-byte aligned
};

struct PrefillKernels {
  // kv [P, 2, D], of which the first num_tokens slots are read; packed [PackedPageWords(D)], 64-byte aligned.
  void (*pack)(const void* kv, int num_tokens, int head_dim, uint32_t* packed);
  void (*reset)(int head_dim, float* state);
  // Adds a page whose first token is first_token, and which row num_rows - 1 sees; every row sees token 0. `scale`
  // turns dot products into base-2 logits.
  void (*attend)(const PrefillTile& tile, const uint32_t* packed, int32_t first_token, int head_dim, float scale);
  void (*finish)(const PrefillTile& tile, int head_dim);
};

extern const PrefillKernels kAvx512Bf16Prefill;

// Those of this machine, or null. Thread-safe.
const PrefillKernels* BestPrefillKernels();

}  // namespace spotlight::kernels::cpu
