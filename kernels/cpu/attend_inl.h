// Attention of a query group to a block of keys, with a running softmax in base 2. Included once per instruction set,
// after its simd header.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::cpu {
namespace {

// 2^x to 2e-7 relative for x in [-126, 127], clamped outside; NaN stays NaN.
SPOTLIGHT_INLINE F32 Exp2(F32 x) {
  x = Min(Set(127.0f), Max(Set(-126.0f), x));
  const F32 n = Round(x);
  const F32 f = x - n;
  F32 p = Set(1.5403530e-4f);
  p = Fma(p, f, Set(1.3333558e-3f));
  p = Fma(p, f, Set(9.6181291e-3f));
  p = Fma(p, f, Set(5.5504109e-2f));
  p = Fma(p, f, Set(2.4022651e-1f));
  p = Fma(p, f, Set(6.9314718e-1f));
  p = Fma(p, f, Set(1.0f));
  return ScaleByPowerOfTwo(p, n);
}

SPOTLIGHT_INLINE float Exp2(float x) {
  float lanes[kLanes];
  Store(Exp2(Set(x)), lanes);
  return lanes[0];
}

// Asks for the key (offset 0) or the value (offset D) of the next block's token t.
template <class T>
SPOTLIGHT_INLINE void PrefetchNext(const AttendBlock& block, int t, int offset) {
  if (t >= block.num_next) return;
  const T* data = static_cast<const T*>(block.next_keys[t]) + offset;
  constexpr int kLineElements = 64 / sizeof(T);
  for (int d = 0; d < block.head_dim; d += kLineElements) __builtin_prefetch(data + d, 0, 2);
}

// Tokens whose dot products run side by side, so that a load of q serves all of them.
inline constexpr int kDotTokens = kAccumulators / 4;

// Logits of heads [head, head + kHeads): rows of kBlockTokens. Those past num_tokens are unspecified.
template <class T, int kHeads>
SPOTLIGHT_INLINE void DotKeys(const AttendBlock& block, int head, float logits[kHeads][kBlockTokens]) {
  const float* q = block.q + head * block.head_dim;
  const int last = block.num_tokens - 1;
  for (int begin = 0; begin <= last; begin += kLanes) {
    F32 rows[kHeads][kLanes];
    for (int i = 0; i < kLanes; i += kDotTokens) {
      const T* keys[kDotTokens];
      F32 sum[kDotTokens][kHeads];
      for (int t = 0; t < kDotTokens; ++t) {
        const int token = begin + i + t;
        keys[t] = static_cast<const T*>(block.keys[token < last ? token : last]);
        for (int h = 0; h < kHeads; ++h) sum[t][h] = Zero();
        if (head == 0) PrefetchNext<T>(block, token, 0);
      }
      for (int d = 0; d < block.head_dim; d += kLanes) {
        F32 k[kDotTokens];
        for (int t = 0; t < kDotTokens; ++t) k[t] = Load(keys[t] + d);
        for (int h = 0; h < kHeads; ++h) {
          const F32 x = Load(q + h * block.head_dim + d);
          for (int t = 0; t < kDotTokens; ++t) sum[t][h] = Fma(k[t], x, sum[t][h]);
        }
      }
      for (int t = 0; t < kDotTokens; ++t) {
        for (int h = 0; h < kHeads; ++h) rows[h][i + t] = sum[t][h];
      }
    }
    for (int h = 0; h < kHeads; ++h) Store(ReduceRows(rows[h]), logits[h] + begin);
  }
}

// Turns logits into weights; returns what the state so far is to be multiplied by.
SPOTLIGHT_INLINE float SoftmaxRow(float* logits, int num_tokens, float* max, float* sum) {
  const int padded = (num_tokens + kLanes - 1) / kLanes * kLanes;
  const float minus_infinity = -__builtin_inff();
  for (int t = num_tokens; t < padded; ++t) logits[t] = minus_infinity;
  F32 block_max = Load(logits);
  for (int t = kLanes; t < padded; t += kLanes) block_max = Max(block_max, Load(logits + t));
  const float reduced = ReduceMax(block_max);
  const float new_max = *max > reduced ? *max : reduced;
  const float scale = Exp2(*max - new_max);
  F32 block_sum = Zero();
  for (int t = 0; t < padded; t += kLanes) {
    const F32 weight = Exp2(Load(logits + t) - Set(new_max));
    Store(weight, logits + t);
    block_sum = block_sum + weight;
  }
  *max = new_max;
  *sum = *sum * scale + ReduceAdd(block_sum);
  return scale;
}

template <class T, int kHeads>
void AttendHeads(const AttendBlock& block, int head) {
  alignas(64) float weights[kHeads][kBlockTokens];
  DotKeys<T, kHeads>(block, head, weights);

  float scale[kHeads];
  for (int h = 0; h < kHeads; ++h) {
    float* max = block.state + head + h;
    scale[h] = SoftmaxRow(weights[h], block.num_tokens, max, max + block.group);
  }

  constexpr int kVectors = kAccumulators / 4;  // a head's share of the registers
  float* values = block.state + StateHeaderFloats(block.group) + head * block.head_dim;
  for (int d = 0; d < block.head_dim; d += kVectors * kLanes) {
    F32 acc[kHeads][kVectors];
    for (int h = 0; h < kHeads; ++h) {
      for (int v = 0; v < kVectors; ++v) {
        acc[h][v] = Load(values + h * block.head_dim + d + v * kLanes) * Set(scale[h]);
      }
    }
    for (int t = 0; t < block.num_tokens; ++t) {
      const T* value = static_cast<const T*>(block.keys[t]) + block.head_dim + d;
      if (head == 0 && d == 0) PrefetchNext<T>(block, t, block.head_dim);
      F32 x[kVectors];
      for (int v = 0; v < kVectors; ++v) x[v] = Load(value + v * kLanes);
      for (int h = 0; h < kHeads; ++h) {
        const F32 weight = Set(weights[h][t]);
        for (int v = 0; v < kVectors; ++v) acc[h][v] = Fma(weight, x[v], acc[h][v]);
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      for (int v = 0; v < kVectors; ++v) Store(acc[h][v], values + h * block.head_dim + d + v * kLanes);
    }
  }
}

// Heads go four at a time: more would not fit the registers.
template <class T>
void Attend(const AttendBlock& block) {
  int head = 0;
  for (; head + 4 <= block.group; head += 4) AttendHeads<T, 4>(block, head);
  switch (block.group - head) {
    case 3:
      return AttendHeads<T, 3>(block, head);
    case 2:
      return AttendHeads<T, 2>(block, head);
    case 1:
      return AttendHeads<T, 1>(block, head);
    default:
      return;
  }
}

void Merge(const float* partial, int group, int head_dim, float* state) {
  const int header = StateHeaderFloats(group);
  for (int h = 0; h < group; ++h) {
    const float max = state[h] > partial[h] ? state[h] : partial[h];
    const float ours = Exp2(state[h] - max), theirs = Exp2(partial[h] - max);
    state[h] = max;
    state[group + h] = state[group + h] * ours + partial[group + h] * theirs;
    float* values = state + header + h * head_dim;
    const float* added = partial + header + h * head_dim;
    for (int d = 0; d < head_dim; d += kLanes) {
      Store(Fma(Load(added + d), Set(theirs), Load(values + d) * Set(ours)), values + d);
    }
  }
}

template <class T>
void Finish(const float* state, int group, int head_dim, void* out) {
  const float* values = state + StateHeaderFloats(group);
  for (int h = 0; h < group; ++h) {
    const F32 sum = Set(state[group + h]);
    for (int d = h * head_dim; d < (h + 1) * head_dim; d += kLanes) {
      Store(Load(values + d) / sum, static_cast<T*>(out) + d);
    }
  }
}

template <class T>
void LoadScaled(const void* x, int64_t count, float scale, float* out) {
  for (int64_t i = 0; i < count; i += kLanes) Store(Load(static_cast<const T*>(x) + i) * Set(scale), out + i);
}

}  // namespace
}  // namespace spotlight::kernels::cpu
