// The specification of retrieval_quality: plain loops over host memory, a full sort, double accumulation.
// params.execution and the workspace are not used. The params must be valid. Thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/retrieval_quality.h"

namespace spotlight::kernels::reference {

// Softmax weight of every token of [0, context_len), summed over the query heads of the group: the sum of all is G.
std::vector<double> GroupMass(const RetrievalQualityParams& params, int32_t row, int32_t kv_head);

// Oracle B of a row and KV head, ascending; empty for a row that attends to everything.
std::vector<int32_t> OracleTokens(const RetrievalQualityParams& params, int32_t row, int32_t kv_head);

void RetrievalQuality(const RetrievalQualityParams& params);

}  // namespace spotlight::kernels::reference
