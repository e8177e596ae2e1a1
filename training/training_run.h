// A run from its first step, or from where an earlier one was stopped, to the hash file.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "training/trainer.h"
#include "training/training_checkpoint.h"
#include "training/worker.h"

namespace spotlight::training {

// RunWorker is called by a thread for each worker; the rest is the first worker's, whose thread calls `note` and
// `progress`.
class TrainingRun {
 public:
  // All outlive the run.
  TrainingRun(const TrainOptions& options, const TrainingTask& task,
              const std::function<void(const std::string&)>& note,
              const std::function<void(const TrainProgress&)>& progress, const std::atomic<bool>* stop);

  // Trains to the end; the first worker then writes the file. Torch exceptions do not leave it. ABORTED: another worker
  // has failed, or was told to stop.
  absl::Status RunWorker(int32_t rank, absl::StatusOr<std::unique_ptr<SequenceModel>> model);

  const TrainReport& report() const { return report_; }

 private:
  absl::Status Run(int32_t rank, absl::StatusOr<std::unique_ptr<SequenceModel>> model);
  absl::Status Begin(Worker& worker);
  absl::Status TakeSteps(int32_t rank, Worker& worker);
  absl::Status AfterStep(int32_t step, const StepFigures& figures, Worker& worker);
  absl::Status Stopped(int32_t step, Worker& worker);
  absl::Status Keep(int32_t step, Worker& worker);
  absl::Status Finish(Worker& worker);
  double Seconds() const;
  std::string checkpoint_path() const { return options_.out + ".training"; }

  const TrainOptions& options_;
  const TrainingTask& task_;
  const std::function<void(const std::string&)>& note_;
  const std::function<void(const TrainProgress&)>& progress_;
  const std::atomic<bool>* const stop_;

  TrainingIdentity identity_;
  std::map<std::string, at::Tensor> first_state_;  // what all workers begin with
  int32_t first_step_ = 0;
  double seconds_before_ = 0, start_ = 0, steps_start_ = 0, kept_at_ = 0;
  double mean_loss_ = 0;
  TrainReport report_;
};

}  // namespace spotlight::training
