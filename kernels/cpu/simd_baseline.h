// Four floats by the compiler's vector extension: correct on any machine.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/e4m3.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::cpu {
namespace {

typedef float F32 __attribute__((vector_size(16)));
inline constexpr int kLanes = 4;
// Registers of accumulators that a loop may hold.
inline constexpr int kAccumulators = 8;

SPOTLIGHT_INLINE F32 Set(float x) {
  return F32{x, x, x, x};
}
SPOTLIGHT_INLINE F32 Zero() {
  return Set(0);
}
SPOTLIGHT_INLINE F32 Fma(F32 a, F32 b, F32 c) {
  return a * b + c;
}
SPOTLIGHT_INLINE F32 Max(F32 a, F32 b) {
  return a > b ? a : b;
}
SPOTLIGHT_INLINE F32 Min(F32 a, F32 b) {
  return a < b ? a : b;
}

SPOTLIGHT_INLINE F32 Load(const float* x) {
  F32 v;
  std::memcpy(&v, x, sizeof(v));
  return v;
}
template <class T>
SPOTLIGHT_INLINE F32 Load(const T* x) {
  return F32{ToFloat(x[0]), ToFloat(x[1]), ToFloat(x[2]), ToFloat(x[3])};
}
template <class T>
SPOTLIGHT_INLINE void Store(F32 v, T* x) {
  for (int i = 0; i < kLanes; ++i) RoundTo(v[i], x + i);
}

SPOTLIGHT_INLINE F32 Round(F32 x) {  // |x| < 2^22, to nearest
  const F32 magic = Set(0x1.8p23f);
  return (x + magic) - magic;
}
SPOTLIGHT_INLINE F32 Floor(F32 x) {  // |x| < 2^22
  const F32 r = Round(x);
  return r > x ? r - 1.0f : r;
}
// x * 2^n for an integral n in [-126, 127].
SPOTLIGHT_INLINE F32 ScaleByPowerOfTwo(F32 x, F32 n) {
  F32 power;
  for (int i = 0; i < kLanes; ++i) power[i] = FloatFromBits(static_cast<uint32_t>(static_cast<int>(n[i]) + 127) << 23);
  return x * power;
}

// Lane i is the sum of rows[i].
SPOTLIGHT_INLINE F32 ReduceRows(const F32* rows) {
  F32 sums;
  for (int i = 0; i < kLanes; ++i) sums[i] = (rows[i][0] + rows[i][1]) + (rows[i][2] + rows[i][3]);
  return sums;
}
SPOTLIGHT_INLINE float ReduceAdd(F32 x) {
  return (x[0] + x[1]) + (x[2] + x[3]);
}
SPOTLIGHT_INLINE float ReduceMax(F32 x) {
  const float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
  return a > b ? a : b;
}

// Bit i is lane i >= 0; NaN gives 0.
SPOTLIGHT_INLINE uint32_t NonNegativeMask(F32 x) {
  uint32_t mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= static_cast<uint32_t>(x[i] >= 0) << i;
  return mask;
}
// Bit i is bit `bit` of lane i, an integer in [0, 15].
SPOTLIGHT_INLINE uint32_t BitMask(F32 x, int bit) {
  uint32_t mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= (static_cast<uint32_t>(x[i]) >> bit & 1u) << i;
  return mask;
}

inline constexpr int kScoreLanes = 8;
SPOTLIGHT_INLINE void CompareScores(const int16_t* scores, int16_t threshold, uint32_t* over, uint32_t* equal) {
  *over = *equal = 0;
  for (int i = 0; i < kScoreLanes; ++i) {
    *over |= static_cast<uint32_t>(scores[i] > threshold) << i;
    *equal |= static_cast<uint32_t>(scores[i] == threshold) << i;
  }
}

}  // namespace
}  // namespace spotlight::kernels::cpu
