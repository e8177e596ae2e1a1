// One run of spotlight-eval: model, texts and selectors in, a report out.
#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "training/evaluation/evaluation_flags.h"
#include "training/evaluation/evaluation_report.h"

namespace spotlight::training {

// How far the run is, for whoever waits: `what` "8192 tokens, books/alice", done of total.
using EvaluationNote = std::function<void(const std::string& what, int64_t done, int64_t total)>;

// oracle-b is measured whether it is asked for or not: the others are judged against it. Errors name the file, the
// flag's value or the text at fault. Torch exceptions do not leave it.
absl::StatusOr<EvaluationReport> Evaluate(const EvaluationOptions& options, const EvaluationNote& note);

}  // namespace spotlight::training
