// Sequences moved to positions that they were not read at, so that a hash trained on short texts serves long contexts.
// Rotary phases that training never saw break a hash; rotating q and k (after RoPE) by the difference of angles shows
// it all of the target range.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "training/step_random.h"

namespace spotlight::training {

// New positions, strictly increasing in [0, target_context), of tokens that were read at 0 .. tokens - 1. One of four,
// equally likely: as they are; all offset alike; offset, with one jump inside the sequence; a random increasing subset
// of the range. Empty: as they are (always where the range is no longer than the sequence).
std::vector<int64_t> MixedPositions(int64_t tokens, int64_t target_context, StepRandom* random);

// The fourth of them.
std::vector<int64_t> ScatteredPositions(int64_t tokens, int64_t target_context, StepRandom* random);

// What turns token t, rotated for position t, into one rotated for `positions[t]`: [T, D] of `options`' type and
// device. Angles are fp32 products of position and frequency, as models and kernels compute them, subtracted in double.
struct PhaseShift {
  at::Tensor cosine, sine;  // the sine's first half is negated; undefined: nothing moves

  PhaseShift() = default;
  PhaseShift(const std::vector<int64_t>& positions, const std::vector<float>& inv_freq,
             const at::TensorOptions& options);

  PhaseShift At(const at::Tensor& tokens) const;  // of these tokens only
  at::Tensor Apply(const at::Tensor& x) const;    // x [..., T, D]
};

}  // namespace spotlight::training
