#include "engine/model/weights.h"

#include <utility>

#include "engine/model/fingerprint.h"

namespace spotlight::engine {

absl::StatusOr<std::shared_ptr<ModelWeights>> OpenModelWeights(const std::string& model_folder,
                                                               const ModelConfig& config,
                                                               absl::optional<uint64_t> random_weights_seed) {
  auto weights = std::make_shared<ModelWeights>();
  absl::StatusOr<std::string> fingerprint = std::string();
  const bool has_fingerprint = config.num_layers > kFingerprintLayer;
  if (random_weights_seed.has_value()) {
    weights->source = RandomTensors(*random_weights_seed);
    if (has_fingerprint) fingerprint = RandomWeightsFingerprint(config, *random_weights_seed);
  } else {
    auto checkpoint = Checkpoint::Open(model_folder);
    if (!checkpoint.ok()) return checkpoint.status();
    weights->checkpoint = *std::move(checkpoint);
    weights->source = CheckpointTensors(weights->checkpoint.get());
    if (has_fingerprint) fingerprint = CheckpointFingerprint(*weights->checkpoint, config);
  }
  if (!fingerprint.ok()) return fingerprint.status();
  weights->fingerprint = *std::move(fingerprint);
  return weights;
}

}  // namespace spotlight::engine
