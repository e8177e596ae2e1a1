// Records steps with torch's profiler (Kineto): operators, and on a GPU its kernels and copies, as a Chrome trace.
#pragma once

#include <memory>

#include "c10/core/Device.h"
#include "engine/step_profiler.h"

namespace spotlight::engine {

std::unique_ptr<StepRecorder> MakeTorchRecorder(c10::Device device);

}  // namespace spotlight::engine
