// --hash train:TEXT: a model without a hash file gets one before it is loaded.
#pragma once

#include "server/program.h"
#include "training/find_or_train.h"

namespace spotlight::server {

// What --hash says begins with this: "train:PATH[,PATH ...]".
inline constexpr char kTrainPrefix[] = "train:";

// `load_engine`, after finding or training the hash where the options ask for it; the file then stands in their place.
// Progress goes to the log.
EngineLoader TrainingLoader(EngineLoader load_engine, training::TrainFunction train);

}  // namespace spotlight::server
