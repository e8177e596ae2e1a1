// The launcher of kernels/fp8_rows.h; a cudaError_t as an int.
#pragma once

#include "kernels/fp8_rows.h"

namespace spotlight::kernels::cuda {

int Fp8Rows(const Fp8RowsParams& params);

}  // namespace spotlight::kernels::cuda
