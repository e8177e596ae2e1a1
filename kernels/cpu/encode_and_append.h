// encode_and_append on the CPU. The params must be valid. Returns when done.
#pragma once

#include "kernels/cpu/level.h"
#include "kernels/encode_and_append.h"

namespace spotlight::kernels::cpu {

void EncodeAndAppend(const EncodeAndAppendParams& params, Level level);

}  // namespace spotlight::kernels::cpu
