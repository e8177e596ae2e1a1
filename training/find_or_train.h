// A model's hash file: found where --hash auto looks, or else trained now and kept for the next start. No torch.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/load.h"
#include "training/trainer.h"

namespace spotlight::training {

// The path of the file. A new one is the model folder's spotlight_hash.safetensors, where that folder can be written to
// and has none; else the user's cache gets MODEL-FINGERPRINT.safetensors. `note` hears which, and why it is trained.
// Where another process is training the same file, its end is waited for. An interrupted run is gone on with, or begun
// anew where its text or recipe were others. `stop` may be null; set, it ends waiting, and training after the step at
// hand: CANCELLED. Other errors as TrainHash and Checkpoint::Open.
absl::StatusOr<std::string> FindOrTrainHash(const engine::LoadOptions& load, const std::vector<std::string>& text_paths,
                                            const TrainFunction& train,
                                            const std::function<void(const std::string&)>& note,
                                            const std::function<void(const TrainProgress&)>& progress,
                                            const std::atomic<bool>* stop = nullptr);

}  // namespace spotlight::training
