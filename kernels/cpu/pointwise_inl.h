// Norms and activations of one row. Included once per instruction set, after attend_inl.h.
#pragma once

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::cpu {
namespace {

// x as T stores it.
template <class T>
SPOTLIGHT_INLINE F32 Rounded(F32 x) {
  T stored[kLanes];
  Store(x, stored);
  return Load(stored);
}

template <class T>
void AddRmsNorm(const NormRow& row) {
  T* x = static_cast<T*>(row.x);
  const T* delta = static_cast<const T*>(row.delta);
  const T* weight = static_cast<const T*>(row.weight);
  T* out = static_cast<T*>(row.out);

  // Sixteen sums at every level: the width is a multiple of 16, and independent adds hide their latency.
  constexpr int kVectors = 16 / kLanes;
  F32 squares[kVectors];
  for (int v = 0; v < kVectors; ++v) squares[v] = Zero();
  for (int i = 0; i < row.size; i += 16) {
    for (int v = 0; v < kVectors; ++v) {
      const int at = i + v * kLanes;
      F32 value = Load(x + at);
      if (delta != nullptr) {
        value = Rounded<T>(value + Load(delta + at));
        Store(value, x + at);
      }
      squares[v] = Fma(value, value, squares[v]);
    }
  }
  float sum = 0;
  for (int v = 0; v < kVectors; ++v) sum += ReduceAdd(squares[v]);
  const F32 scale = Set(1.0f / __builtin_sqrtf(sum / static_cast<float>(row.size) + row.eps));
  for (int i = 0; i < row.size; i += kLanes) Store(Rounded<T>(Load(x + i) * scale) * Load(weight + i), out + i);
}

template <class T>
void SiluMul(const void* gate, const void* up, int64_t size, void* out) {
  for (int64_t i = 0; i < size; i += kLanes) {
    const F32 x = Load(static_cast<const T*>(gate) + i);
    const F32 silu = x / (Set(1.0f) + Exp2(x * Set(-1.44269504f)));
    Store(Rounded<T>(silu) * Load(static_cast<const T*>(up) + i), static_cast<T*>(out) + i);
  }
}

}  // namespace
}  // namespace spotlight::kernels::cpu
