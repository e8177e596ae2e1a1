// The launcher of kernels/small_linear.h; a cudaError_t as an int.
#pragma once

#include "kernels/small_linear.h"

namespace spotlight::kernels::cuda {

int SmallLinear(const SmallLinearParams& params);

}  // namespace spotlight::kernels::cuda
