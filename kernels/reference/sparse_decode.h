// The specification of sparse_decode: plain loops over host memory, a full sort, double accumulation.
// params.execution, the stage times and the workspace are not used. The params must be valid. Thread-safe.
#pragma once

#include <vector>

#include "kernels/sparse_decode.h"

namespace spotlight::kernels::reference {

// The tokens that a row and KV head select, ascending; empty for a row that attends to everything.
std::vector<int32_t> SelectTokens(const SparseDecodeParams& params, int32_t row, int32_t kv_head);

void SparseDecode(const SparseDecodeParams& params);

}  // namespace spotlight::kernels::reference
