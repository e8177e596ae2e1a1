// The specification of encode_and_append: plain loops over host memory, double accumulation. params.execution is not
// used. The params must be valid. Thread-safe.
//
// Angles are the fp32 product position * inv_freq, as checkpoints are trained with; everything after is in double and
// rounded once.
#pragma once

#include <vector>

#include "kernels/encode_and_append.h"

namespace spotlight::kernels::reference {

// One encoder's real-valued output for KV head `kv_head`: x [in] -> [32 * W].
std::vector<double> Encode(const EncoderWeights& encoder, DType weight_dtype, int32_t hash_words, int32_t kv_head,
                           const std::vector<double>& x);

void EncodeAndAppend(const EncodeAndAppendParams& params);

}  // namespace spotlight::kernels::reference
