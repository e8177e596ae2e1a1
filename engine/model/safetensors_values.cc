#include "engine/model/safetensors_values.h"

#include <cmath>
#include <cstring>

namespace spotlight::engine {
namespace {

float FromBits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

float FromF16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = half >> 10 & 0x1f;
  const uint32_t mantissa = half & 0x3ff;
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide_exponent = exponent == 0x1f ? 0xff : exponent + (127 - 15);
  return FromBits(sign | wide_exponent << 23 | mantissa << 13);
}

}  // namespace

int64_t NumElements(const TensorView& view) {
  return static_cast<int64_t>(view.num_bytes / kernels::SizeOf(view.dtype));
}

void ReadFloats(const TensorView& view, int64_t begin, int64_t end, float* out) {
  const std::byte* data = view.data + begin * kernels::SizeOf(view.dtype);
  if (view.dtype == kernels::DType::kF32) {
    if (begin < end) memcpy(out, data, (end - begin) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < end - begin; ++i) {
    uint16_t bits;  // memcpy: the file does not align its tensors
    memcpy(&bits, data + i * sizeof(bits), sizeof(bits));
    out[i] = view.dtype == kernels::DType::kBF16 ? FromBits(static_cast<uint32_t>(bits) << 16) : FromF16(bits);
  }
}

uint16_t ToBf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace spotlight::engine
