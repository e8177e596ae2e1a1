// The CUDA implementations behind the operations' headers. Params must be valid; everything is enqueued on
// params.execution.stream. Capturable in a CUDA graph.
//
// Launchers return a cudaError_t as an int, so that this header needs no CUDA.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/dense_decode.h"
#include "kernels/encode_and_append.h"
#include "kernels/pointwise.h"
#include "kernels/retrieval_quality.h"
#include "kernels/sparse_decode.h"

namespace spotlight::kernels::cuda {

size_t DenseDecodeWorkspaceBytes(int32_t max_rows, int32_t max_context, int32_t num_q_heads, int32_t num_kv_heads,
                                 int32_t head_dim);
size_t SparseDecodeWorkspaceBytes(int32_t max_rows, int32_t max_context, int32_t num_q_heads, int32_t num_kv_heads,
                                  int32_t head_dim);
size_t RetrievalQualityWorkspaceBytes(int32_t max_rows, int32_t max_context, int32_t num_q_heads, int32_t num_kv_heads,
                                      int32_t head_dim);

int EncodeAndAppend(const EncodeAndAppendParams& params);
int SparseDecode(const SparseDecodeParams& params);
int DenseDecode(const DenseDecodeParams& params);
int RetrievalQuality(const RetrievalQualityParams& params);
int AddRmsNorm(const AddRmsNormParams& params);
int SiluMul(const SiluMulParams& params);

}  // namespace spotlight::kernels::cuda
