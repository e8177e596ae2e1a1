// Sampling as the engine hands it to samplers: every optional resolved, penalties off.
#pragma once

#include <cstdint>

#include "engine/request.h"

namespace spotlight::testing {

inline engine::SamplingParams ResolvedSampling(float temperature, float top_p = 1, int32_t top_k = 0, float min_p = 0) {
  engine::SamplingParams sampling;
  sampling.temperature = temperature;
  sampling.top_p = top_p;
  sampling.top_k = top_k;
  sampling.min_p = min_p;
  sampling.repetition_penalty = 1.0f;
  return sampling;
}

}  // namespace spotlight::testing
