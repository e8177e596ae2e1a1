// The specification of prefill_attention: plain loops over host memory, double accumulation, any dtype.
// params.execution is not used. The params must be valid. Thread-safe.
#pragma once

#include "kernels/prefill_attention.h"

namespace spotlight::kernels::reference {

void PrefillAttention(const PrefillAttentionParams& params);

}  // namespace spotlight::kernels::reference
