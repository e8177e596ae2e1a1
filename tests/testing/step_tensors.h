// A batch's tensors, for a test without a model runner.
#pragma once

#include <ATen/core/Tensor.h>

#include "engine/ops/attention.h"

namespace spotlight::testing {

// Everything but sample_index and sample_rows, copied to `device`. token_context and max_context follow from positions
// and context_len. `batch` must outlive the result.
engine::StepTensors StepTensorsOf(const engine::Batch& batch, at::Device device);

}  // namespace spotlight::testing
