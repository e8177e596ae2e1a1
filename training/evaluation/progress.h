// How far a measurement is, for whoever waits for it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace spotlight::training {

struct EvaluationProgress {
  std::string what;             // "perplexity: needle, spotlight, 2%"
  int64_t done = 0, total = 0;  // steps of the measurement that was called, of unequal length
};

// Called after each step, on the caller's thread. May be null.
using ProgressFunction = std::function<void(const EvaluationProgress&)>;

}  // namespace spotlight::training
