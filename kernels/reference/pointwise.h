// The specification of the pointwise operations: plain loops over host memory, double between the roundings.
// params.execution is not used. The params must be valid. Thread-safe.
#pragma once

#include "kernels/pointwise.h"

namespace spotlight::kernels::reference {

void AddRmsNorm(const AddRmsNormParams& params);
void SiluMul(const SiluMulParams& params);

}  // namespace spotlight::kernels::reference
