// The specification of dense_decode: plain loops over host memory, double accumulation. params.execution and the
// workspace are not used. The params must be valid. Thread-safe.
#pragma once

#include "kernels/dense_decode.h"

namespace spotlight::kernels::reference {

void DenseDecode(const DenseDecodeParams& params);

}  // namespace spotlight::kernels::reference
