// A model's hash file: found where --hash auto looks, or else trained now and kept for the next start. No torch.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/load.h"
#include "training/trainer.h"

namespace spotlight::training {

// The path of the file. A new one is the model folder's spotlight_hash.safetensors, where that folder can be written to
// and has none; else the user's cache gets MODEL-FINGERPRINT.safetensors. `note` hears which, and why it is trained.
// Errors as TrainHash and Checkpoint::Open.
absl::StatusOr<std::string> FindOrTrainHash(const engine::LoadOptions& load, const std::vector<std::string>& text_paths,
                                            const TrainFunction& train,
                                            const std::function<void(const std::string&)>& note,
                                            const std::function<void(const TrainProgress&)>& progress);

}  // namespace spotlight::training
