// e4m3 as storage: sign, 4 bits of exponent (bias 7), 3 of mantissa. The largest value is 448; there are no infinities,
// and magnitude 0x7f is NaN (OCP 8-bit floating point, 1.0).
#pragma once

#include <cstdint>

#include "kernels/numeric.h"

namespace spotlight::kernels {

inline constexpr float kMaxE4m3 = 448;

struct E4m3 {
  uint8_t bits;
};

SPOTLIGHT_INLINE float ToFloat(E4m3 x) {
  const uint32_t sign = uint32_t{x.bits & 0x80u} << 24;
  const uint32_t magnitude = x.bits & 0x7fu;
  if (magnitude == 0x7fu) return FloatFromBits(sign | 0x7fc00000u);
  // Exact for normals and subnormals alike: place the bits, then move the exponent bias from 7 to 127.
  return FloatFromBits(sign | FloatBits(FloatFromBits(magnitude << 20) * 0x1p120f));
}

// Of a row whose largest magnitude is `largest`, NaN not counted: x / scale reaches kMaxE4m3. 1 where that would be 0:
// for zeros, and for magnitudes that no fp32 divides by kMaxE4m3, which become zeros.
SPOTLIGHT_INLINE float E4m3Scale(float largest) {
  const float scale = largest / kMaxE4m3;
  return scale > 0 ? scale : 1.0f;
}

// Of a K or V in pages, from the bits of its largest magnitude, which order as magnitudes do, infinity and NaN last:
// NaN where it holds one of those, so that all of it reads as NaN.
SPOTLIGHT_INLINE float E4m3PageScale(uint32_t largest_bits) {
  constexpr uint32_t kInfinity = 0x7f800000u, kNaN = 0x7fc00000u;
  return largest_bits < kInfinity ? E4m3Scale(FloatFromBits(largest_bits)) : FloatFromBits(kNaN);
}

// To the nearest, ties to even; as GPUs do, what is beyond the largest value becomes it, and every NaN the positive
// one.
SPOTLIGHT_INLINE void RoundTo(float x, E4m3* out) {
  const uint32_t bits = FloatBits(x);
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t rounded;
  if (magnitude > 0x7f800000u) {
    out->bits = 0x7f;
    return;
  }
  if (magnitude >= FloatBits(kMaxE4m3)) {
    rounded = 0x7eu;
  } else if (magnitude < 0x3c800000u) {  // below 2^-6: adding 2^14 lets the FPU round at the subnormals' last place
    rounded = FloatBits(FloatFromBits(magnitude) + 0x1p14f) - FloatBits(0x1p14f);
  } else {
    rounded = (magnitude - 0x3c000000u + 0x7ffffu + (magnitude >> 20 & 1u)) >> 20;
  }
  out->bits = static_cast<uint8_t>((bits >> 24 & 0x80u) | rounded);
}

}  // namespace spotlight::kernels
