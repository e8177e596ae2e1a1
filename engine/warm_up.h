// Steps before the first request of a GPU's engine. Libraries load kernels when these are first called, and build plans
// for shapes that are new to them: the first prompts would wait for that. And what libraries take of the device's
// memory for it is not told by anybody, but is gone from what is free before the cache is sized.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/torch_model_runner.h"

namespace spotlight::engine {

struct WarmUpResult {
  double seconds = 0;
  // The most device memory that was held for steps at once: buffers, workspaces, activations.
  int64_t step_bytes = 0;
  // Shapes that cuDNN plans for (engine/ops/prefill_blocks.h), and how many of them are left to the prompts that meet
  // them.
  int32_t num_blocks = 0, num_blocks_left = 0;
};

// On the thread that will run the steps, for what libraries set up is the thread's, and on parts->stream. First the
// longest step that prompts make and the largest that decode; then, until `max_seconds` have passed since the
// beginning, shorter chunks and the blocks of prompts. `equip` gives the parts a cache of one page, which stands for
// all that is read, and attention; nothing is written, and both are taken away again. RESOURCE_EXHAUSTED: no memory for
// such steps.
absl::StatusOr<WarmUpResult> WarmUp(const std::function<absl::Status()>& equip, double max_seconds, RunnerParts* parts);

}  // namespace spotlight::engine
