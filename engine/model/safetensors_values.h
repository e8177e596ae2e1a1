// A tensor's elements as floats, whatever it stores.
#pragma once

#include <cstdint>

#include "engine/model/safetensors.h"

namespace spotlight::engine {

int64_t NumElements(const TensorView& view);

// Elements [begin, end) in row-major order, widened exactly: out[0] is element `begin`.
void ReadFloats(const TensorView& view, int64_t begin, int64_t end, float* out);

// Round to nearest, ties to even; NaN stays NaN.
uint16_t ToBf16(float value);

}  // namespace spotlight::engine
