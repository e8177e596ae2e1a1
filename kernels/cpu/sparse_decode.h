// sparse_decode on the CPU. The params must be valid. Returns when done.
#pragma once

#include "kernels/cpu/level.h"
#include "kernels/sparse_decode.h"

namespace spotlight::kernels::cpu {

void SparseDecode(const SparseDecodeParams& params, Level level);

}  // namespace spotlight::kernels::cpu
