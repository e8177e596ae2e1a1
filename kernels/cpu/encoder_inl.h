// RoPE, the encoders' layers and the packing of bits. Included once per instruction set, after attend_inl.h.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::cpu {
namespace {

template <class T>
void Rotate(const RotateHead& head) {
  const T* x = static_cast<const T*>(head.x);
  const T* bias = static_cast<const T*>(head.bias);
  T* stored = static_cast<T*>(head.stored);
  const auto at = [&](int d) { return bias == nullptr ? Load(x + d) : Load(x + d) + Load(bias + d); };
  const auto put = [&](F32 value, int d) {
    Store(value, stored + d);
    if (head.rounded != nullptr) Store(Load(stored + d), head.rounded + d);
  };
  if (head.cosine == nullptr) {
    for (int d = 0; d < head.head_dim; d += kLanes) put(at(d), d);
    return;
  }
  const int half = head.head_dim / 2;
  for (int d = 0; d < half; d += kLanes) {
    const F32 a = at(d), b = at(d + half), cosine = Load(head.cosine + d), sine = Load(head.sine + d);
    put(a * cosine - b * sine, d);
    put(Fma(b, cosine, a * sine), d + half);
  }
}

// Output columns [column, column + kVectors * kLanes) of kTokens tokens. Each sum runs over the inputs in order,
// whatever the blocking: a token's result does not depend on its neighbours.
template <class T, int kTokens, int kVectors>
SPOTLIGHT_INLINE void AffineTile(const AffineBlock& block, int token, int column) {
  const T* weights = static_cast<const T*>(block.weights) + column;
  const float* x = block.x + token * block.num_inputs;
  float* y = block.y + token * block.num_outputs + column;
  F32 acc[kTokens][kVectors];
  for (int t = 0; t < kTokens; ++t) {
    for (int v = 0; v < kVectors; ++v) acc[t][v] = Load(y + t * block.num_outputs + v * kLanes);
  }
  for (int i = 0; i < block.num_inputs; ++i, weights += block.num_outputs) {
    F32 w[kVectors];
    for (int v = 0; v < kVectors; ++v) w[v] = Load(weights + v * kLanes);
    for (int t = 0; t < kTokens; ++t) {
      const F32 input = Set(x[t * block.num_inputs + i]);
      for (int v = 0; v < kVectors; ++v) acc[t][v] = Fma(input, w[v], acc[t][v]);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    for (int v = 0; v < kVectors; ++v) Store(acc[t][v], y + t * block.num_outputs + v * kLanes);
  }
}

template <class T, int kTokens>
void AffineTokens(const AffineBlock& block, int token) {
  // A lone token needs many sums in flight to hide the latency of the multiply-add.
  constexpr int kVectors = kTokens == 1 ? 8 : kAccumulators / kTokens;
  int column = 0;
  for (; column + kVectors * kLanes <= block.num_outputs; column += kVectors * kLanes) {
    AffineTile<T, kTokens, kVectors>(block, token, column);
  }
  for (; column < block.num_outputs; column += kLanes) AffineTile<T, kTokens, 1>(block, token, column);
}

template <class T>
void Affine(const AffineBlock& block) {
  int token = 0;
  for (; token + 4 <= block.num_tokens; token += 4) AffineTokens<T, 4>(block, token);
  for (; token < block.num_tokens; ++token) AffineTokens<T, 1>(block, token);
}

void Silu(float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const F32 v = Load(x + i);
    Store(v / (Set(1.0f) + Exp2(v * Set(-1.44269504f))), x + i);
  }
}

void PackSigns(const float* h, int words, uint32_t* code) {
  for (int w = 0; w < words; ++w) {
    uint32_t bits = 0;
    for (int b = 0; b < 32; b += kLanes) bits |= NonNegativeMask(Load(h + 32 * w + b)) << b;
    code[w] = bits;
  }
}

void PackLevels(const float* w, float unit, int words, int num_planes, uint32_t* planes) {
  const F32 middle = Set(static_cast<float>(1 << (num_planes - 1)));
  const F32 last = Set(static_cast<float>((1 << num_planes) - 1));
  for (int word = 0; word < words; ++word) {
    uint32_t bits[kMaxPlanes] = {};
    for (int b = 0; b < 32; b += kLanes) {
      // Clamped before the floor, which knows small numbers only; Max takes its second operand for NaN.
      const F32 scaled = Min(Max(Load(w + 32 * word + b) / Set(unit) + middle, Zero()), last);
      const F32 level = Floor(scaled);
      for (int j = 0; j < num_planes; ++j) bits[j] |= BitMask(level, j) << b;
    }
    for (int j = 0; j < num_planes; ++j) planes[j * words + word] = bits[j];
  }
}

double SumSquares(const float* x, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += double{x[i]} * double{x[i]};
  return sum;
}

}  // namespace
}  // namespace spotlight::kernels::cpu
