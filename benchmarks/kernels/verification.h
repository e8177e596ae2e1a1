// Checks of what is timed, in the same run: the first difference ends the program.
#pragma once

#include "benchmarks/kernels/decode_step.h"
#include "benchmarks/kernels/full_attention.h"

namespace spotlight::benchmarks {

// The decode and the prefill form of EncodeAndAppend against the reference, on a layer of their own: rotated queries,
// stored keys and values, under 0.5% of the codes' bits and of the planes' levels different.
void VerifyEncoding(const Shape& shape);

// For the first and the last (row, KV head): the selection equal, index by index, to the reference's on the same codes
// and planes; outputs within 5e-3 in relative norm of attention to those tokens in double. Both with and without the
// prefilter.
void VerifySparse(DecodeStep* step);

// DenseDecode, and cuDNN's attention, against attention to all tokens in double, for the same heads.
void VerifyDense(DecodeStep* step, FullAttention* full);

}  // namespace spotlight::benchmarks
