// prefill_attention on the CPU. The params must be valid. Returns when done.
#pragma once

#include "kernels/cpu/prefill_kernels.h"
#include "kernels/prefill_attention.h"

namespace spotlight::kernels::cpu {

void PrefillAttention(const PrefillAttentionParams& params, const PrefillKernels& kernels);

}  // namespace spotlight::kernels::cpu
