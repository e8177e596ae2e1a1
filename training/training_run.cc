#include "training/training_run.h"

#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "training/hash_file_output.h"
#include "training/torch_errors.h"

namespace spotlight::training {
namespace {

constexpr int32_t kHeldOutMeasurements = 10;  // in a run, beside the last

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

TrainingIdentity Identify(const TrainingTask& task, const SequenceModel& model) {
  return {{"model's fingerprint", model.fingerprint()},
          {"recipe", FormatRecipe(task.recipe)},
          {"corpus sha256", task.corpus->sha256},
          {"sequence count", absl::StrCat(task.corpus->train.size())},
          {"device kind", model.device().is_cuda() ? "cuda" : "cpu"},
          {"device count", absl::StrCat(task.group->num_workers())},
          {"number type", model.dtype() == at::kFloat ? "fp32" : "bf16"}};
}

}  // namespace

TrainingRun::TrainingRun(const TrainOptions& options, const TrainingTask& task,
                         const std::function<void(const std::string&)>& note,
                         const std::function<void(const TrainProgress&)>& progress, const std::atomic<bool>* stop)
    : options_(options), task_(task), note_(note), progress_(progress), stop_(stop), start_(Now()), kept_at_(start_) {}

absl::Status TrainingRun::RunWorker(int32_t rank, absl::StatusOr<std::unique_ptr<SequenceModel>> model) {
  absl::Status status;
  try {
    status = CatchTorch("training", [&] { return Run(rank, std::move(model)); });
  } catch (const OtherWorkerFailed&) {
    return absl::AbortedError("another worker failed");
  }
  if (!status.ok()) task_.group->Fail();
  return status;
}

absl::Status TrainingRun::Run(int32_t rank, absl::StatusOr<std::unique_ptr<SequenceModel>> model) {
  if (!model.ok()) return model.status();
  if ((*model)->fingerprint().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(options_.model_folder, ": a model of ",
                                                   (*model)->config().num_layers,
                                                   " layers is too small to be served with a hash"));
  }
  const c10::OptionalDeviceGuard on_device((*model)->device());
  auto worker = Worker::Create(task_, rank, *std::move(model));
  if (!worker.ok()) return worker.status();
  if (rank == 0) {
    if (absl::Status status = Begin(**worker); !status.ok()) return status;
  }
  if (!task_.group->Agree(true)) return absl::AbortedError("another worker failed");
  if (!first_state_.empty()) {
    if (absl::Status status = (*worker)->trainer().Restore(first_state_); !status.ok()) return status;
  }
  if (!task_.group->Agree(true)) return absl::AbortedError("another worker failed");
  if (absl::Status status = TakeSteps(rank, **worker); !status.ok()) return status;
  return rank == 0 ? Finish(**worker) : absl::OkStatus();
}

absl::Status TrainingRun::Begin(Worker& worker) {
  if (note_ != nullptr) note_(worker.memory());
  identity_ = Identify(task_, worker.model());
  report_.recipe = task_.recipe;
  report_.num_sequences = std::min(static_cast<int64_t>(task_.corpus->train.size()),
                                   int64_t{task_.recipe.steps} * task_.group->num_workers());
  report_.num_tokens = report_.num_sequences * task_.recipe.tokens_per_sequence;
  report_.num_heldout_sequences = static_cast<int64_t>(task_.corpus->heldout.size());
  if (options_.checkpoint_seconds > 0) {
    auto kept = LoadTrainingCheckpoint(checkpoint_path(), identity_);
    if (!kept.ok()) {
      const std::string reason(kept.status().message());
      if (!options_.replace_progress) {
        return absl::Status(kept.status().code(),
                            absl::StrCat(reason, "; delete it to begin anew, or give another --out"));
      }
      if (note_ != nullptr) note_(absl::StrCat(reason, "; begun anew"));
      kept = absl::optional<TrainingCheckpoint>();
    }
    if (kept->has_value()) {
      first_state_ = std::move((*kept)->state);
      report_.resumed_at_step = first_step_ = (*kept)->step;
      seconds_before_ = (*kept)->seconds;
      mean_loss_ = (*kept)->mean_loss;
      if (note_ != nullptr) note_(absl::StrCat("resumed after step ", first_step_, ", from ", checkpoint_path()));
    }
  }
  if (first_state_.empty() && task_.group->num_workers() > 1) first_state_ = worker.trainer().State();
  return absl::OkStatus();
}

absl::Status TrainingRun::TakeSteps(int32_t rank, Worker& worker) {
  if (rank == 0) steps_start_ = Now();
  for (int32_t step = first_step_; step < task_.recipe.steps; ++step) {
    const bool stop = stop_ != nullptr && rank == 0 && stop_->load();
    if (!task_.group->Agree(!stop)) {
      return stop ? Stopped(step, worker) : absl::AbortedError("told to stop");
    }
    const auto figures = worker.Step(step);
    if (!figures.ok()) return figures.status();
    if (rank != 0) continue;
    if (absl::Status status = AfterStep(step, *figures, worker); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status TrainingRun::AfterStep(int32_t step, const StepFigures& figures, Worker& worker) {
  mean_loss_ = step == 0 ? figures.loss : 0.98 * mean_loss_ + 0.02 * figures.loss;
  TrainProgress progress;
  progress.step = step + 1;
  progress.num_steps = task_.recipe.steps;
  progress.loss = mean_loss_;
  const int32_t interval = std::max(1, task_.recipe.steps / kHeldOutMeasurements);
  if ((step + 1) % interval == 0 && step + 1 < task_.recipe.steps) {
    progress.heldout_recall = worker.EvaluateHeldOut().recall;
  }
  const double tokens = static_cast<double>(step + 1 - first_step_) * task_.recipe.tokens_per_sequence;
  progress.tokens_per_second = tokens * task_.group->num_workers() / std::max(1e-9, Now() - steps_start_);
  progress.seconds_left = worker.SecondsLeft(step + 1);
  if (progress_ != nullptr) progress_(progress);
  if (options_.checkpoint_seconds > 0 && Now() - kept_at_ >= options_.checkpoint_seconds) return Keep(step + 1, worker);
  return absl::OkStatus();
}

absl::Status TrainingRun::Keep(int32_t step, Worker& worker) {
  const absl::Status status =
      SaveTrainingCheckpoint(checkpoint_path(), {identity_, step, Seconds(), mean_loss_, worker.trainer().State()});
  kept_at_ = Now();
  return status;
}

absl::Status TrainingRun::Stopped(int32_t step, Worker& worker) {
  const std::string at = absl::StrCat("stopped after step ", step, " of ", task_.recipe.steps);
  if (options_.checkpoint_seconds == 0) return absl::CancelledError(absl::StrCat(at, "; nothing was kept"));
  if (absl::Status status = Keep(step, worker); !status.ok()) return status;
  return absl::CancelledError(absl::StrCat(at, "; the same command goes on from there (", checkpoint_path(), ")"));
}

absl::Status TrainingRun::Finish(Worker& worker) {
  const auto encoders = worker.trainer().Export();
  const HeldOutFigures figures = worker.EvaluateHeldOut(AsStored(encoders, options_.weights));
  engine::HashFileMetadata metadata = HashMetadata(task_.recipe, worker.model().config(), worker.model().fingerprint());
  metadata.corpus_sha256 = task_.corpus->sha256;
  metadata.heldout = absl::StrFormat(
      R"({"recall": %.4f, "mass": %.4f, "iou": %.4f, "step": %d, "heldout_sequences": %d, "sequences": %d})",
      figures.recall, figures.candidate_mass, figures.iou, task_.recipe.steps, report_.num_heldout_sequences,
      report_.num_sequences);
  absl::Status status = WriteHashFile(options_.out, encoders, options_.weights, metadata);
  if (!status.ok()) return status;
  std::error_code ignored;
  // Without checkpoints a file of that name is another run's.
  if (options_.checkpoint_seconds > 0) std::filesystem::remove(checkpoint_path(), ignored);
  report_.heldout_recall = figures.recall;
  report_.heldout_mass = figures.candidate_mass;
  report_.heldout_iou = figures.iou;
  report_.seconds = Seconds();
  report_.file_bytes = static_cast<int64_t>(std::filesystem::file_size(options_.out, ignored));
  return absl::OkStatus();
}

double TrainingRun::Seconds() const {
  return seconds_before_ + Now() - start_;
}

}  // namespace spotlight::training
