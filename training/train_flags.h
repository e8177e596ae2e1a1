// The command line of spotlight-train.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "training/trainer.h"

namespace spotlight::training {

enum class TrainAction { kTrain, kPrintHelp, kPrintVersion };

struct TrainCommandLine {
  TrainAction action = TrainAction::kTrain;
  TrainOptions options;  // of kTrain
};

// INVALID_ARGUMENT names the flag, its value and what it may be. Sets the process's flags: not thread-safe.
absl::StatusOr<TrainCommandLine> ParseTrainCommandLine(int argc, const char* const* argv);

// Every flag by group, with its unit and its default.
std::string TrainHelpText();

}  // namespace spotlight::training
