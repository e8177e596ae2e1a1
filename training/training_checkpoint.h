// Where a training run stands, in a file: what a run that was killed goes on from.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"

namespace spotlight::training {

// Everything that decides the outcome beside the steps done, by what it is called in messages: a run may go on only
// from a file that is equal in all.
using TrainingIdentity = std::map<std::string, std::string>;

struct TrainingCheckpoint {
  TrainingIdentity identity;
  int32_t step = 0;  // steps done
  double seconds = 0;
  double mean_loss = 0;
  std::map<std::string, at::Tensor> state;  // HashTrainer::State
};

// Takes the place of an earlier file in one step. RESOURCE_EXHAUSTED: the disk is full; then the earlier file stands.
absl::Status SaveTrainingCheckpoint(const std::string& path, const TrainingCheckpoint& checkpoint);

// Empty when there is no such file. FAILED_PRECONDITION "PATH: reason": the progress of another run, with what differs
// from `identity`; INVALID_ARGUMENT "PATH: reason": a file that is no checkpoint.
absl::StatusOr<absl::optional<TrainingCheckpoint>> LoadTrainingCheckpoint(const std::string& path,
                                                                          const TrainingIdentity& identity);

}  // namespace spotlight::training
