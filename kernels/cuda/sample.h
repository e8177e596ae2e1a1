// The launchers of kernels/sample.h; a cudaError_t as an int.
#pragma once

#include "kernels/sample.h"

namespace spotlight::kernels::cuda {

size_t SampleWorkspaceBytes(int32_t max_rows, int32_t vocab_size);
int Sample(const SampleParams& params);
int CountTokens(const CountTokensParams& params);
int FeedTokens(const FeedTokensParams& params);

}  // namespace spotlight::kernels::cuda
