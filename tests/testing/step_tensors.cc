#include "tests/testing/step_tensors.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>

#include <algorithm>

namespace spotlight::testing {

engine::StepTensors StepTensorsOf(const engine::Batch& batch, at::Device device) {
  const auto on_device = [device](const auto& values, at::ScalarType type) {
    return at::tensor(values, type).to(device);
  };
  engine::StepTensors step;
  step.batch = &batch;
  step.token_ids = on_device(batch.token_ids, at::kInt);
  step.positions = on_device(batch.positions, at::kInt);
  step.slots = on_device(batch.slots, at::kLong);
  step.page_table = on_device(batch.page_table, at::kInt).view({batch.num_rows, batch.max_pages});
  step.context_len = on_device(batch.context_len, at::kInt);
  step.num_select = on_device(batch.num_select, at::kInt);
  step.token_context = step.positions + 1;
  step.max_context = *std::max_element(batch.context_len.begin(), batch.context_len.end());
  return step;
}

}  // namespace spotlight::testing
