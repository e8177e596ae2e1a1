// --hash train:TEXT: a model without a hash file gets one before it is loaded.
#pragma once

#include <atomic>

#include "server/program.h"
#include "training/find_or_train.h"

namespace spotlight::server {

// What --hash says begins with this: "train:PATH[,PATH ...]".
inline constexpr char kTrainPrefix[] = "train:";

// Loads an engine by `load_engine`, after finding or training the hash where the options ask for it; the file then
// stands in their place. Progress goes to the log. Thread-safe.
class TrainingLoader {
 public:
  TrainingLoader(EngineLoader load_engine, training::TrainFunction train);

  absl::StatusOr<engine::LoadedEngine> Load(const engine::LoadOptions& options, engine::StatsObserver* observer);

  // Ends training after the step at hand: Load then returns CANCELLED soon, and the next start goes on from there.
  // False: nothing is being trained, and nothing will be.
  bool Stop();

 private:
  const EngineLoader load_engine_;
  const training::TrainFunction train_;
  std::atomic<bool> stop_{false}, training_{false};
};

}  // namespace spotlight::server
