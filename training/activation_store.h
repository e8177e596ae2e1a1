// Activations of the sequences that a hash is trained on: captured when first asked for, kept where there is room.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "training/activations.h"
#include "training/memory_plan.h"
#include "training/sequence_model.h"

namespace spotlight::training {

// Thread-compatible. Torch exceptions leave it where memory runs out.
class ActivationStore {
 public:
  // `model` and `sequences` outlive the store.
  ActivationStore(const SequenceModel* model, const std::vector<std::vector<int32_t>>* sequences, int32_t first_layer,
                  const MemoryPlan& plan);

  // On the model's device. Errors as SequenceModel::Run.
  absl::StatusOr<Activations> Get(int64_t sequence);

  int64_t num_passes() const { return num_passes_; }  // through the model so far

 private:
  const SequenceModel* const model_;
  const std::vector<std::vector<int32_t>>& sequences_;
  const int32_t first_layer_;
  int32_t room_on_device_, room_on_host_;
  int64_t num_passes_ = 0;
  std::unordered_map<int64_t, Activations> kept_;
};

}  // namespace spotlight::training
