// Where a kernel runs, from where its tensors are.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/execution.h"

namespace spotlight::engine {

// On a GPU its current stream; on the CPU LibTorch's one pool of threads.
kernels::Execution ExecutionOn(at::Device device);

}  // namespace spotlight::engine
