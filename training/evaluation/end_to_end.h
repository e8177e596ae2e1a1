// spotlight-eval's measurements of whole runs: perplexity, generated tasks, greedy fidelity (TASKS.md).
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "training/evaluation/evaluation_flags.h"
#include "training/evaluation/evaluation_report.h"
#include "training/evaluation/evaluation_texts.h"
#include "training/evaluation/progress.h"
#include "training/evaluation/selector.h"
#include "training/sequence_model.h"

namespace spotlight::training {

struct EndToEndInput {
  const EvaluationOptions* options = nullptr;
  const SequenceModel* model = nullptr;
  absl::Span<Selector* const> selectors;     // with oracle-b
  int32_t first_layer = 0;                   // hashed
  std::string served_hash;                   // file for the engine; empty: what needs one is left out
  absl::Span<const TextSequence> sequences;  // of the longest context; the first of each text is used
};

// Whether that can be measured, before minutes of other work: INVALID_ARGUMENT names the flag that cannot be.
absl::Status CheckEndToEnd(const EndToEndInput& input);

// Adds what options.perplexity, needle, tasks and fidelity ask for to the report. Without a hash that can be served
// fidelity is INVALID_ARGUMENT, and tasks are judged by likelihood alone, which the report's notes say.
absl::Status MeasureEndToEnd(const EndToEndInput& input, const ProgressFunction& progress, EvaluationReport* report);

}  // namespace spotlight::training
