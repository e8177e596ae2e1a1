// Host time of a step: what the engine adds to the model's own time.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "engine/tokenizer/tokenizer.h"

namespace spotlight::benchmarks {

struct StepOverheadOptions {
  int32_t batch_size = 32;
  int32_t num_steps = 2000;
  int32_t prompt_tokens = 512;
  int32_t num_stop_strings = 2;  // of every request
};

// Microseconds per step of EngineLoop::RunOnce, less what the runner took (it only hands out ids).
struct StepOverhead {
  double mean_us = 0, p50_us = 0, p99_us = 0;
  int64_t num_tokens = 0;  // that reached the sinks
};

// Decodes `batch_size` streams side by side with the engine's own queue, scheduler, batch packing, detokeniser, stop
// matching and statistics. INTERNAL when not every step made a token for every stream.
absl::StatusOr<StepOverhead> MeasureStepOverhead(const StepOverheadOptions& options,
                                                 const engine::Tokenizer& tokenizer);

}  // namespace spotlight::benchmarks
