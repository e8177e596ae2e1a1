// spotlight-train from its command line to its exit code, with the training itself as a parameter.
#pragma once

#include "training/trainer.h"

namespace spotlight::training {

// 0: trained, or printed what was asked for. 1: failed. 2: a bad command line. 4: stopped by SIGINT or SIGTERM, of
// which a second one ends the process at once, with 128 and its number. Called before the process has other threads
// (command_line/signal_thread.h). Progress goes to stderr, the report to stdout.
int RunTrainProgram(int argc, const char* const* argv, const TrainFunction& train);

}  // namespace spotlight::training
