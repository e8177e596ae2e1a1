// One device's part in training: the model, the activations that it keeps, and the hashes.
#pragma once

#include <c10/core/Device.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "training/activation_store.h"
#include "training/corpus.h"
#include "training/data_parallel.h"
#include "training/hash_trainer.h"
#include "training/memory_plan.h"
#include "training/recipe.h"
#include "training/sequence_model.h"

namespace spotlight::training {

// What all workers have in common.
struct TrainingTask {
  Recipe recipe;
  const Corpus* corpus = nullptr;
  DataParallel* group = nullptr;
  int64_t max_memory_bytes = 0;  // 0: what is free
  const std::atomic<bool>* stop = nullptr;
};

// Used by one thread, that of its rank. Torch exceptions leave it.
class Worker {
 public:
  // Plans the memory, captures the first sequences and sets up the hashes. Errors as PlanMemory and
  // HashTrainer::Create; CANCELLED: told to stop meanwhile.
  static absl::StatusOr<std::unique_ptr<Worker>> Create(const TrainingTask& task, int32_t rank,
                                                        std::unique_ptr<SequenceModel> model);

  // All workers take the same step together.
  absl::StatusOr<StepFigures> Step(int32_t step);
  // Mean over the sequences held out: of the hash as it is, or of encoders that the trainer gave
  // (HashTrainer::Evaluate).
  HeldOutFigures EvaluateHeldOut(const std::map<std::string, at::Tensor>& encoders = {}) const;

  HashTrainer& trainer() { return *trainer_; }
  const SequenceModel& model() const { return *model_; }
  const std::string& memory() const { return memory_; }  // the plan, in words
  // Of what is still to do from `step` on, passes of the model included.
  double SecondsLeft(int32_t step) const;

 private:
  Worker(const TrainingTask& task, int32_t rank, std::unique_ptr<SequenceModel> model);
  absl::Status PlanAndCapture();
  absl::Status CheckNotStopped() const;
  absl::Status MakeTrainer(const std::vector<Activations>& samples);

  const TrainingTask task_;
  const int32_t rank_;
  const std::unique_ptr<SequenceModel> model_;
  std::vector<std::vector<int32_t>> sequences_;  // this worker's share of the corpus
  std::string memory_;
  MemoryPlan plan_;
  bool sequences_recur_ = true;
  std::unique_ptr<ActivationStore> store_;
  std::vector<Activations> heldout_;
  std::unique_ptr<SequenceOrder> order_;
  std::unique_ptr<HashTrainer> trainer_;
  double seconds_per_pass_ = 0, seconds_per_step_ = 0;  // means of the recent ones
};

// What HashTrainer must know of a model.
HashShape ShapeOf(const engine::ModelConfig& config, const Recipe& recipe);

}  // namespace spotlight::training
