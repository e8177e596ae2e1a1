#include "training/worker.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/device.h"
#include "engine/model/tensor_list.h"

namespace spotlight::training {
namespace {

// Of what is free: the rest is for fragments, and for what else runs on the machine.
constexpr double kCpuShare = 0.80;
constexpr double kGpuShare = 0.92;
constexpr double kHostShare = 0.50;  // that may be pinned, over all GPUs
constexpr size_t kNumSamples = 4;    // sequences that the centring statistics come from

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void MoveMean(double value, double& mean) {
  mean = mean == 0 ? value : 0.9 * mean + 0.1 * value;
}

int64_t Share(double share, int64_t bytes) {
  return static_cast<int64_t>(share * static_cast<double>(bytes));
}

// The widest a pass gets: a layer's projections, their rotated copies and the MLP, some of it in fp32.
int64_t PassBytes(const engine::ModelConfig& config, int64_t tokens, at::ScalarType dtype) {
  const int64_t heads = int64_t{config.num_q_heads + 2 * config.num_kv_heads} * config.head_dim;
  const int64_t per_token = 4 * int64_t{config.hidden_size} + 3 * heads + 3 * int64_t{config.intermediate_size};
  const int64_t in_fp32 = 3 * heads + 2 * int64_t{config.hidden_size};
  return tokens * (per_token * static_cast<int64_t>(at::elementSize(dtype)) + 4 * in_fp32);
}

// Autograd's thread of a GPU has no CUDA context before its first launch, and cuBLAS warns when it makes the first.
void StartAutograd(at::Device device) {
  if (!device.is_cuda()) return;
  const at::Tensor one = at::ones({1}, at::TensorOptions().device(device)).requires_grad_();
  (one * one).backward();
}

}  // namespace

HashShape ShapeOf(const engine::ModelConfig& config, const Recipe& recipe) {
  HashShape shape;
  shape.num_layers = config.num_layers - recipe.first_layer;
  shape.num_q_heads = config.num_q_heads;
  shape.num_kv_heads = config.num_kv_heads;
  shape.head_dim = config.head_dim;
  shape.inv_freq = config.inv_freq;
  shape.target_context = recipe.target_context > 0 ? recipe.target_context : config.max_context_tokens;
  return shape;
}

Worker::Worker(const TrainingTask& task, int32_t rank, std::unique_ptr<SequenceModel> model)
    : task_(task), rank_(rank), model_(std::move(model)) {
  const auto& train = task.corpus->train;
  for (size_t i = rank; i < train.size(); i += task.group->num_workers()) sequences_.push_back(train[i]);
}

absl::StatusOr<std::unique_ptr<Worker>> Worker::Create(const TrainingTask& task, int32_t rank,
                                                       std::unique_ptr<SequenceModel> model) {
  std::unique_ptr<Worker> worker(new Worker(task, rank, std::move(model)));
  if (absl::Status status = worker->PlanAndCapture(); !status.ok()) return status;
  return worker;
}

absl::Status Worker::PlanAndCapture() {
  const engine::ModelConfig& config = model_->config();
  const Recipe& recipe = task_.recipe;
  const at::Device device = model_->device();
  StartAutograd(device);
  sequences_recur_ = recipe.steps > static_cast<int64_t>(sequences_.size());
  MemoryNeeds needs;
  needs.device = device.str();
  needs.weight_bytes = engine::NumParameters(config) * static_cast<int64_t>(at::elementSize(model_->dtype()));
  needs.step_bytes = HashTrainer::StepBytes(recipe, ShapeOf(config, recipe), device.type());
  needs.pass_bytes = PassBytes(config, recipe.tokens_per_sequence, model_->dtype());
  needs.sequence_bytes = ActivationBytes(config, recipe.first_layer, recipe.tokens_per_sequence, model_->dtype());
  needs.num_sequences = static_cast<int32_t>(sequences_.size());
  needs.num_heldout = rank_ == 0 ? static_cast<int32_t>(task_.corpus->heldout.size()) : 0;
  needs.num_samples = static_cast<int32_t>(std::min(kNumSamples, task_.corpus->train.size()));
  needs.sequences_recur = sequences_recur_;
  const auto available = engine::AvailableBytes(device), on_host = engine::AvailableBytes(at::kCPU);
  if (!available.ok()) return available.status();
  if (!on_host.ok()) return on_host.status();
  int64_t free_bytes = Share(device.is_cpu() ? kCpuShare : kGpuShare, *available);
  const int64_t allowed_bytes = task_.max_memory_bytes - needs.weight_bytes;
  needs.limited = task_.max_memory_bytes > 0 && allowed_bytes < free_bytes;
  if (needs.limited) free_bytes = allowed_bytes;
  const int64_t host_bytes = device.is_cpu() ? 0 : Share(kHostShare / task_.group->num_workers(), *on_host);
  auto plan = PlanMemory(needs, free_bytes, host_bytes);
  if (!plan.ok()) return plan.status();
  plan_ = *plan;
  memory_ = DescribeMemory(needs, plan_, free_bytes);

  store_ = std::make_unique<ActivationStore>(model_.get(), &sequences_, recipe.first_layer, plan_);
  order_ = std::make_unique<SequenceOrder>(sequences_.size(), recipe.seed);
  // Every worker looks at the same samples, so that all begin with the same statistics.
  std::vector<Activations> samples;
  for (int32_t i = 0; i < needs.num_samples; ++i) {
    if (absl::Status status = CheckNotStopped(); !status.ok()) return status;
    const size_t spread = i * task_.corpus->train.size() / needs.num_samples;
    const double start = Now();
    auto sample = task_.group->num_workers() == 1
                      ? store_->Get(spread)
                      : Capture(*model_, task_.corpus->train[spread], recipe.first_layer, device);
    if (!sample.ok()) return sample.status();
    samples.push_back(*std::move(sample));
    MoveMean(Now() - start, seconds_per_pass_);
  }
  if (absl::Status status = MakeTrainer(samples); !status.ok()) return status;
  samples.clear();
  for (int32_t i = 0; i < needs.num_heldout; ++i) {
    if (absl::Status status = CheckNotStopped(); !status.ok()) return status;
    auto activations = Capture(*model_, task_.corpus->heldout[i], recipe.first_layer, device);
    if (!activations.ok()) return activations.status();
    heldout_.push_back(*std::move(activations));
  }
  return absl::OkStatus();
}

absl::Status Worker::CheckNotStopped() const {
  if (task_.stop == nullptr || !task_.stop->load()) return absl::OkStatus();
  return absl::CancelledError("stopped before the first step");
}

absl::Status Worker::MakeTrainer(const std::vector<Activations>& samples) {
  auto trainer = HashTrainer::Create(task_.recipe, ShapeOf(model_->config(), task_.recipe), samples, model_->device());
  if (!trainer.ok()) return trainer.status();
  trainer_ = *std::move(trainer);
  return absl::OkStatus();
}

absl::StatusOr<StepFigures> Worker::Step(int32_t step) {
  const double start = Now();
  const int64_t passes = store_->num_passes();
  const auto activations = store_->Get(order_->At(step));
  if (!activations.ok()) return activations.status();
  const double captured = Now();
  if (store_->num_passes() > passes) MoveMean(captured - start, seconds_per_pass_);
  const auto average = [this](std::vector<at::Tensor>& gradients) { task_.group->AllReduceMean(rank_, gradients); };
  const StepFigures figures = task_.group->num_workers() == 1 ? trainer_->Step(*activations, step)
                                                              : trainer_->Step(*activations, step, rank_, average);
  MoveMean(Now() - captured, seconds_per_step_);
  if (!std::isfinite(figures.loss)) {
    return absl::InternalError(
        absl::StrCat("training diverged at step ", step, ": the loss is not finite (--learning-rate)"));
  }
  return figures;
}

HeldOutFigures Worker::EvaluateHeldOut(const std::map<std::string, at::Tensor>& encoders) const {
  HeldOutFigures mean;
  const auto count = static_cast<double>(heldout_.size());
  for (size_t i = 0; i < heldout_.size(); ++i) {
    const HeldOutFigures figures = trainer_->Evaluate(heldout_[i], static_cast<int32_t>(i), kHeldOutQueries, encoders);
    mean.recall += figures.recall / count;
    mean.candidate_mass += figures.candidate_mass / count;
    mean.iou += figures.iou / count;
  }
  return mean;
}

double Worker::SecondsLeft(int32_t step) const {
  const double steps = task_.recipe.steps - step;
  double passes = steps;
  if (sequences_recur_) {
    const auto total = static_cast<double>(sequences_.size());
    const double kept = plan_.sequences_on_device + plan_.sequences_on_host;
    const double unseen = std::min(std::max(0.0, total - static_cast<double>(store_->num_passes())), steps);
    passes = unseen + (steps - unseen) * (1 - kept / total);
  }
  return steps * seconds_per_step_ + passes * seconds_per_pass_;
}

}  // namespace spotlight::training
