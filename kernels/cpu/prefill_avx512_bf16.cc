#include <immintrin.h>

#include <cstring>

#include "kernels/cpu/prefill_kernels.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::cpu {
namespace {

constexpr int kWidth = kPageTokens / 16;  // vectors of a row of logits; also of the 64 dimensions done at once

// 2^x to 3e-6 relative, far below bf16's 2e-3; 0 for -infinity, NaN for NaN.
SPOTLIGHT_INLINE __m512 Exp2(__m512 x) {
  const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 p = _mm512_set1_ps(0.0135341681f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.0520114603f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.241442757f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693003834f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.00000259f));
  return _mm512_scalef_ps(p, x);  // times 2^floor(x)
}

// The word at p in every lane.
SPOTLIGHT_INLINE __m512bh BroadcastPair(const void* p) {
  int32_t word;
  std::memcpy(&word, p, sizeof(word));
  return (__m512bh)_mm512_set1_epi32(word);
}

// acc [kRows, 64] += a [kRows, 2 * kPairs] b, with b [kPairs, 64 of `stride`] in pairs.
template <int kRows, int kPairs>
SPOTLIGHT_INLINE void MultiplyAdd(const uint16_t* const* a, const uint32_t* b, int stride, __m512 acc[kRows][kWidth]) {
  for (int pair = 0; pair < kPairs; ++pair, b += stride) {
    __m512bh columns[kWidth];
    for (int v = 0; v < kWidth; ++v) columns[v] = (__m512bh)_mm512_load_si512(b + 16 * v);
    for (int r = 0; r < kRows; ++r) {
      const __m512bh x = BroadcastPair(a[r] + 2 * pair);
      for (int v = 0; v < kWidth; ++v) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], columns[v], x);
    }
  }
}

// Where row r stands in a vector of a tile's rows.
constexpr int LaneOf(int row) {
  return row < 4 ? row : row + 4;
}

// Lane LaneOf(r) is the largest element of rows[r], for all six in 20 instructions.
SPOTLIGHT_INLINE __m512 MaxOfRows(const __m512 rows[kTileRows]) {
  __m512 pairs[3];
  for (int i = 0; i < 3; ++i) {
    pairs[i] = _mm512_max_ps(_mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]),
                             _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]));
  }
  const __m512 first =
      _mm512_max_ps(_mm512_shuffle_ps(pairs[0], pairs[1], 0x44), _mm512_shuffle_ps(pairs[0], pairs[1], 0xee));
  const __m512 last = _mm512_max_ps(pairs[2], _mm512_shuffle_ps(pairs[2], pairs[2], 0x4e));
  const __m512 halves = _mm512_max_ps(_mm512_shuffle_f32x4(first, last, 0x44), _mm512_shuffle_f32x4(first, last, 0xee));
  return _mm512_max_ps(halves, _mm512_shuffle_f32x4(halves, halves, 0xb1));
}

// Hides what a row must not see: its logits from num_visible on become -infinity.
SPOTLIGHT_INLINE void Mask(int32_t num_visible, __m512 logits[kWidth]) {
  const uint64_t visible = num_visible >= 64 ? ~uint64_t{0} : num_visible <= 0 ? 0 : (uint64_t{1} << num_visible) - 1;
  for (int v = 0; v < kWidth; ++v) {
    const auto mask = static_cast<__mmask16>(visible >> (16 * v));
    logits[v] = _mm512_mask_mov_ps(_mm512_set1_ps(-__builtin_inff()), mask, logits[v]);
  }
}

template <int kRows, int kDim>
void AttendTile(const PrefillTile& tile, const uint32_t* packed, int32_t first_token, float scale) {
  __m512 logits[kRows][kWidth];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kWidth; ++v) logits[r][v] = _mm512_setzero_ps();
  }
  MultiplyAdd<kRows, kDim / 2>(tile.q, packed, kPageTokens, logits);
  if (tile.num_visible[0] - first_token < kPageTokens) {
    for (int r = 0; r < kRows; ++r) Mask(tile.num_visible[r] - first_token, logits[r]);
  }

  __m512 row_max[kTileRows];
  for (int r = 0; r < kTileRows; ++r) {
    const __m512* row = logits[r < kRows ? r : 0];
    row_max[r] = _mm512_max_ps(_mm512_max_ps(row[0], row[1]), _mm512_max_ps(row[2], row[3]));
  }
  float* const state = tile.state;
  const __m512 old_max = _mm512_load_ps(state);
  const __m512 new_max = _mm512_max_ps(old_max, _mm512_mul_ps(MaxOfRows(row_max), _mm512_set1_ps(scale)));
  alignas(64) float shrink[16], offset[16];
  _mm512_store_ps(shrink, Exp2(_mm512_sub_ps(old_max, new_max)));
  _mm512_store_ps(offset, new_max);
  _mm512_store_ps(state, new_max);

  alignas(64) uint16_t weights[kRows][kPageTokens];
  float* const sums = state + 16;
  for (int r = 0; r < kRows; ++r) {
    __m512 w[kWidth];
    for (int v = 0; v < kWidth; ++v) {
      w[v] = Exp2(_mm512_fmsub_ps(logits[r][v], _mm512_set1_ps(scale), _mm512_set1_ps(offset[LaneOf(r)])));
    }
    const __m512 sum = _mm512_add_ps(_mm512_add_ps(w[0], w[1]), _mm512_add_ps(w[2], w[3]));
    const __m512 old_sum = _mm512_load_ps(sums + 16 * r);
    _mm512_store_ps(sums + 16 * r, _mm512_fmadd_ps(old_sum, _mm512_set1_ps(shrink[LaneOf(r)]), sum));
    _mm512_store_si512(weights[r], (__m512i)_mm512_cvtne2ps_pbh(w[1], w[0]));
    _mm512_store_si512(weights[r] + 32, (__m512i)_mm512_cvtne2ps_pbh(w[3], w[2]));
  }

  const uint16_t* weight_rows[kRows];
  for (int r = 0; r < kRows; ++r) weight_rows[r] = weights[r];
  const uint32_t* packed_values = packed + kPageTokens * kDim / 2;
  for (int d = 0; d < kDim; d += 64) {
    float* const values = state + kTileHeaderFloats + d;
    __m512 acc[kRows][kWidth];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kWidth; ++v) {
        acc[r][v] = _mm512_mul_ps(_mm512_load_ps(values + r * kDim + 16 * v), _mm512_set1_ps(shrink[LaneOf(r)]));
      }
    }
    MultiplyAdd<kRows, kPageTokens / 2>(weight_rows, packed_values + d, kDim, acc);
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kWidth; ++v) _mm512_store_ps(values + r * kDim + 16 * v, acc[r][v]);
    }
  }
}

template <int kDim>
void AttendDim(const PrefillTile& tile, const uint32_t* packed, int32_t first_token, float scale) {
  switch (tile.num_rows) {
    case 6:
      return AttendTile<6, kDim>(tile, packed, first_token, scale);
    case 5:
      return AttendTile<5, kDim>(tile, packed, first_token, scale);
    case 4:
      return AttendTile<4, kDim>(tile, packed, first_token, scale);
    case 3:
      return AttendTile<3, kDim>(tile, packed, first_token, scale);
    case 2:
      return AttendTile<2, kDim>(tile, packed, first_token, scale);
    default:
      return AttendTile<1, kDim>(tile, packed, first_token, scale);
  }
}

void Attend(const PrefillTile& tile, const uint32_t* packed, int32_t first_token, int head_dim, float scale) {
  if (head_dim == 64) {
    AttendDim<64>(tile, packed, first_token, scale);
  } else {
    AttendDim<128>(tile, packed, first_token, scale);
  }
}

void Reset(int head_dim, float* state) {
  std::memset(state, 0, TileFloats(head_dim) * sizeof(float));
  _mm512_store_ps(state, _mm512_set1_ps(-__builtin_inff()));
}

void Finish(const PrefillTile& tile, int head_dim) {
  const float* const sums = tile.state + 16;
  for (int r = 0; r < tile.num_rows; ++r) {
    const __m512 share = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(_mm512_load_ps(sums + 16 * r)));
    const float* values = tile.state + kTileHeaderFloats + r * head_dim;
    for (int d = 0; d < head_dim; d += 32) {
      const __m512 low = _mm512_mul_ps(_mm512_load_ps(values + d), share);
      const __m512 high = _mm512_mul_ps(_mm512_load_ps(values + d + 16), share);
      _mm512_storeu_si512(tile.out[r] + d, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
  }
}

// Columns of a 16 x 16 matrix of words, given by rows.
SPOTLIGHT_INLINE void Transpose(__m512i rows[16]) {
  __m512i x[16];
  for (int i = 0; i < 16; i += 2) {
    x[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    x[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  // Row 4i + j: of each 128-bit lane, column j of rows [4i, 4i + 4).
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(x[i], x[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(x[i], x[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(x[i + 1], x[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(x[i + 1], x[i + 3]);
  }
  // What remains is to transpose the lanes of rows j, 4 + j, 8 + j, 12 + j.
  for (int j = 0; j < 4; ++j) {
    x[j] = _mm512_shuffle_i32x4(rows[j], rows[4 + j], 0x88);
    x[4 + j] = _mm512_shuffle_i32x4(rows[j], rows[4 + j], 0xdd);
    x[8 + j] = _mm512_shuffle_i32x4(rows[8 + j], rows[12 + j], 0x88);
    x[12 + j] = _mm512_shuffle_i32x4(rows[8 + j], rows[12 + j], 0xdd);
  }
  for (int j = 0; j < 4; ++j) {
    rows[j] = _mm512_shuffle_i32x4(x[j], x[8 + j], 0x88);
    rows[8 + j] = _mm512_shuffle_i32x4(x[j], x[8 + j], 0xdd);
    rows[4 + j] = _mm512_shuffle_i32x4(x[4 + j], x[12 + j], 0x88);
    rows[12 + j] = _mm512_shuffle_i32x4(x[4 + j], x[12 + j], 0xdd);
  }
}

void Pack(const void* kv, int num_tokens, int head_dim, uint32_t* packed) {
  const auto* tokens = static_cast<const uint16_t*>(kv);
  // Thirty-two elements of a token's key and value; zeros for a slot that holds none.
  const auto load = [&](int token, int element) {
    if (token >= num_tokens) return _mm512_setzero_si512();
    return _mm512_loadu_si512(tokens + token * 2 * head_dim + element);
  };
  for (int token = 0; token < kPageTokens; token += 16) {
    for (int pair = 0; pair < head_dim / 2; pair += 16) {
      __m512i words[16];
      for (int i = 0; i < 16; ++i) words[i] = load(token + i, 2 * pair);
      Transpose(words);
      for (int i = 0; i < 16; ++i) _mm512_store_si512(packed + (pair + i) * kPageTokens + token, words[i]);
    }
  }

  alignas(64) uint16_t order[2][32];  // 16 words of an even token's element beside the odd token's
  for (int i = 0; i < 32; ++i) {
    order[0][i] = static_cast<uint16_t>(i / 2 + i % 2 * 32);
    order[1][i] = static_cast<uint16_t>(order[0][i] + 16);
  }
  uint32_t* values = packed + kPageTokens * head_dim / 2;
  for (int token = 0; token < kPageTokens; token += 2) {
    for (int d = 0; d < head_dim; d += 32, values += 32) {
      const __m512i even = load(token, head_dim + d), odd = load(token + 1, head_dim + d);
      _mm512_store_si512(values, _mm512_permutex2var_epi16(even, _mm512_load_si512(order[0]), odd));
      _mm512_store_si512(values + 16, _mm512_permutex2var_epi16(even, _mm512_load_si512(order[1]), odd));
    }
  }
}

}  // namespace

const PrefillKernels kAvx512Bf16Prefill = {Pack, Reset, Attend, Finish};

}  // namespace spotlight::kernels::cpu
