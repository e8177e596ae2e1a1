// dense_decode on the CPU. The params must be valid. Returns when done.
#pragma once

#include "kernels/cpu/level.h"
#include "kernels/dense_decode.h"

namespace spotlight::kernels::cpu {

void DenseDecode(const DenseDecodeParams& params, Level level);

}  // namespace spotlight::kernels::cpu
