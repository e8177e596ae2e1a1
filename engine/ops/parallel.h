// The one pool of CPU threads: LibTorch's, offered to the kernels.
#pragma once

#include "kernels/execution.h"

namespace spotlight::engine {

// Built on at::parallel_for with a grain of one item. Lives for the whole process.
const kernels::ParallelFor& TorchParallelFor();

}  // namespace spotlight::engine
