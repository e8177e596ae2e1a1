// The launcher of kernels/chunk_attention.h; a cudaError_t as an int.
#pragma once

#include "kernels/chunk_attention.h"

namespace spotlight::kernels::cuda {

size_t ChunkAttentionWorkspaceBytes(int32_t max_tokens, int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim);
int ChunkAttention(const ChunkAttentionParams& params);

}  // namespace spotlight::kernels::cuda
