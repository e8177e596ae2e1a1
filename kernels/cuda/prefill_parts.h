// The launchers of kernels/prefill_parts.h; a cudaError_t as an int.
#pragma once

#include "kernels/prefill_parts.h"

namespace spotlight::kernels::cuda {

int GatherPages(const GatherPagesParams& params);
int MergeAttention(const MergeAttentionParams& params);

}  // namespace spotlight::kernels::cuda
