// bfloat16 and IEEE half as storage: conversions to and from float, round to nearest even. Everything here is forced
// inline: translation units compiled for different instruction sets share it, and none may export its copy.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/layout.h"

#define SPOTLIGHT_INLINE [[gnu::always_inline]] inline

namespace spotlight::kernels {

struct BF16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

SPOTLIGHT_INLINE uint32_t FloatBits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

SPOTLIGHT_INLINE float FloatFromBits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

SPOTLIGHT_INLINE float ToFloat(float x) {
  return x;
}

SPOTLIGHT_INLINE float ToFloat(BF16 x) {
  return FloatFromBits(uint32_t{x.bits} << 16);
}

SPOTLIGHT_INLINE float ToFloat(F16 x) {
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return FloatFromBits(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Exact for normals and subnormals alike: place the bits, then move the exponent bias from 15 to 127.
  return FloatFromBits(sign | FloatBits(FloatFromBits(magnitude << 13) * 0x1p112f));
}

SPOTLIGHT_INLINE void RoundTo(float x, float* out) {
  *out = x;
}

SPOTLIGHT_INLINE void RoundTo(float x, BF16* out) {
  const uint32_t bits = FloatBits(x);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  out->bits = static_cast<uint16_t>(is_nan ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

SPOTLIGHT_INLINE void RoundTo(float x, F16* out) {
  const uint32_t bits = FloatBits(x);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | (magnitude >> 13 & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // rounds to 65536 or more
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 lets the FPU round at the subnormals' last place
    half = FloatBits(FloatFromBits(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  out->bits = static_cast<uint16_t>(sign | half);
}

// Element `index` of an array of `dtype`.
SPOTLIGHT_INLINE float LoadElement(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kF32:
      return static_cast<const float*>(data)[index];
    case DType::kBF16:
      return ToFloat(static_cast<const BF16*>(data)[index]);
    case DType::kF16:
      return ToFloat(static_cast<const F16*>(data)[index]);
  }
  return 0;
}

SPOTLIGHT_INLINE void StoreElement(float x, void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kF32:
      return RoundTo(x, static_cast<float*>(data) + index);
    case DType::kBF16:
      return RoundTo(x, static_cast<BF16*>(data) + index);
    case DType::kF16:
      return RoundTo(x, static_cast<F16*>(data) + index);
  }
}

}  // namespace spotlight::kernels
