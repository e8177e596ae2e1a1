// The inner loops that are compiled once per instruction set, as a table of functions. Translation units of different
// instruction sets share nothing but this header: no standard library inside the loops, so that no inline function
// compiled for a newer machine can be picked by the linker for an older one.
//
// A result depends on the arguments and the level only. Pointers need the alignment of their element type.
#pragma once

#include <cstdint>

#include "kernels/cpu/level.h"
#include "kernels/layout.h"

namespace spotlight::kernels::cpu {

inline constexpr int kNumDTypes = 3;
// Keys that one Attend call takes at most: their scores and the softmax stay in the first-level cache.
inline constexpr int kBlockTokens = 64;
inline constexpr int kMaxHeadDim = 128;

// A query group's planes, complemented: popc(~(code ^ plane)) is then popc(code ^ inverted).
struct ScorePlanes {
  int words = 0;
  int num_planes = 0;
  int top_plane_weight = 0;
  uint32_t inverted[kMaxPlanes * kMaxHashWords] = {};  // [num_planes, words]
};

// Some KV heads' codes in pages; token t lies in page page_table[t / P], slot t % P.
inline constexpr int kScoreHeads = 4;
struct PagedCodes {
  const uint32_t* codes = nullptr;  // [pages, Hkv, P, words]
  const int32_t* page_table = nullptr;
  int32_t num_kv_heads = 0;
  int32_t first_head = 0, num_heads = 0;  // 1 .. kScoreHeads of them, neighbours in memory
  int32_t num_pages = 0;                  // that may be asked for ahead of their scoring
};

// Running softmax of a query group, in base 2: per head the largest logit, the sum of weights and the weighted values.
//   max [G], sum [G], values [G, D] from float StateHeaderFloats(G) on
inline constexpr int StateHeaderFloats(int group) {
  return (2 * group + 15) / 16 * 16;
}
inline constexpr int StateFloats(int group, int head_dim) {
  return StateHeaderFloats(group) + group * head_dim;
}
inline constexpr int kMaxStateFloats = StateFloats(kMaxGroup, kMaxHeadDim);

struct AttendBlock {
  const float* q = nullptr;  // [G, D], scaled so that logits are base-2
  int group = 0, head_dim = 0;
  const void* const* keys = nullptr;  // [num_tokens] the token's key; its value follows head_dim elements later
  int num_tokens = 0;                 // 1 .. kBlockTokens
  // What will be attended to next, for prefetching bit by bit: asked for at once, a block's lines would stall the core.
  const void* const* next_keys = nullptr;
  int num_next = 0;
  float* state = nullptr;
};

struct RotateHead {
  const void* x = nullptr;                         // [D] of the table's dtype
  const void* bias = nullptr;                      // [D], or null
  const float *cosine = nullptr, *sine = nullptr;  // [D / 2], null: no rotation
  int head_dim = 0;
  void* stored = nullptr;    // [D] out, rounded
  float* rounded = nullptr;  // [D] out: the stored values; may be null
};

struct NormRow {
  int size = 0;  // a multiple of 16
  float eps = 0;
  void* x = nullptr;            // [size] in and out, of the table's dtype; so are the others
  const void* delta = nullptr;  // [size], or null
  const void* weight = nullptr;
  void* out = nullptr;  // may be delta
};

// One affine layer over a few tokens: y[t] += x[t] W.
struct AffineBlock {
  const float* x = nullptr;  // [num_tokens, num_inputs]
  int num_tokens = 0, num_inputs = 0, num_outputs = 0;
  const void* weights = nullptr;  // [num_inputs, num_outputs]; num_outputs a multiple of 16
  float* y = nullptr;             // [num_tokens, num_outputs]
};

struct KernelTable {
  // scores[i] = raw score of codes[i * words ...], i < count.
  void (*score)(const ScorePlanes& planes, const uint32_t* codes, int64_t count, int16_t* scores);
  // scores[h][i] = raw score of token begin + i < end and the h-th of the heads, whose planes are planes[h].
  void (*score_pages)(const ScorePlanes* planes, const PagedCodes& pages, int32_t begin, int32_t end,
                      int16_t* const* scores);
  int64_t (*count_at_least)(const int16_t* scores, int64_t count, int16_t threshold);
  // Writes i + base, ascending, for every score over `threshold` and for the first `num_ties` equal to it; returns how
  // many.
  int64_t (*select)(const int16_t* scores, int64_t count, int16_t threshold, int64_t num_ties, int32_t base,
                    int32_t* out);

  void (*attend[kNumDTypes])(const AttendBlock& block);
  // Adds `partial` to `state`.
  void (*merge)(const float* partial, int group, int head_dim, float* state);
  // mass[t] = sum over heads of 2^(logit - largest) / sum, of the block's finished state, which stays as it is; mass
  // [kBlockTokens], those past num_tokens unspecified. Asks for the keys of next_keys only.
  void (*group_mass[kNumDTypes])(const AttendBlock& block, float* mass);
  // out [G, D] = values / sum.
  void (*finish[kNumDTypes])(const float* state, int group, int head_dim, void* out);
  // out[i] = x[i] * scale.
  void (*load_scaled[kNumDTypes])(const void* x, int64_t count, float scale, float* out);
  // The same of x in e4m3; count a multiple of 16.
  void (*load_e4m3)(const void* x, int64_t count, float scale, float* out);

  void (*rotate[kNumDTypes])(const RotateHead& head);
  void (*affine[kNumDTypes])(const AffineBlock& block);
  void (*silu)(float* x, int64_t count);
  // Bit b of code [words] is h[b] >= 0.
  void (*pack_signs)(const float* h, int words, uint32_t* code);
  // planes [num_planes, words]: bits of clamp(floor(w[b] / unit) + 2^(J-1), 0, 2^J - 1); NaN gives 0.
  void (*pack_levels)(const float* w, float unit, int words, int num_planes, uint32_t* planes);
  double (*sum_squares)(const float* x, int64_t count);

  void (*add_rms_norm[kNumDTypes])(const NormRow& row);
  // out = silu(gate) * up; size a multiple of 16.
  void (*silu_mul[kNumDTypes])(const void* gate, const void* up, int64_t size, void* out);
};

extern const KernelTable kBaselineKernels;
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;

const KernelTable& KernelsOf(Level level);

}  // namespace spotlight::kernels::cpu
