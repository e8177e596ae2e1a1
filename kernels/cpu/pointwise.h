// The pointwise operations on the CPU. The params must be valid. They return when done.
#pragma once

#include "kernels/cpu/level.h"
#include "kernels/pointwise.h"

namespace spotlight::kernels::cpu {

void AddRmsNorm(const AddRmsNormParams& params, Level level);
void SiluMul(const SiluMulParams& params, Level level);

}  // namespace spotlight::kernels::cpu
