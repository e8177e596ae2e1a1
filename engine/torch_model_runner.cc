#include "engine/torch_model_runner.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/max.h>
#include <ATen/ops/tensor.h>
#include <ATen/record_function.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/decode_graphs.h"
#include "engine/ops/parallel.h"
#include "engine/sampler.h"

namespace spotlight::engine {
namespace {

// Prompt tokens are scored so many at a time: logits of a whole chunk would take hundreds of megabytes.
constexpr size_t kScoredTile = 64;

// The runner's own stream of a GPU: graphs cannot be captured on the default one.
std::optional<c10::cuda::CUDAStream> StreamOf(at::Device device) {
  if (!device.is_cuda()) return std::nullopt;
  return c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device.index());
}

class TorchModelRunner : public ModelRunner {
 public:
  explicit TorchModelRunner(RunnerParts parts)
      : parts_(std::move(parts)), inputs_(parts_.capacity, parts_.device), stream_(StreamOf(parts_.device)) {
    if (!stream_.has_value() || !parts_.cuda_graphs) return;
    graphs_ = std::make_unique<DecodeGraphs>(&inputs_, parts_.capacity.max_rows, parts_.max_context,
                                             [this](const StepTensors& step) { return Forward(step, nullptr); });
  }

  // Before the first Run.
  absl::Status CaptureGraphs() {
    if (!stream_.has_value()) return absl::OkStatus();
    const c10::InferenceMode no_autograd;
    const c10::OptionalDeviceGuard on_device(parts_.device);
    const c10::cuda::CUDAStreamGuard on_stream(*stream_);
    // What has been loaded so far came over on the default stream, which this one does not wait for.
    C10_CUDA_CHECK(cudaDeviceSynchronize());
    if (graphs_ == nullptr) return absl::OkStatus();
    return graphs_->CaptureUsual(!parts_.hashes.empty());
  }

  // The host samples: it needs a step's logits before it can feed the next.
  int32_t max_in_flight() const override { return 1; }

  absl::Status Launch(const Batch& batch) override {
    step_.batch = &batch;
    // A CPU has nothing that works by itself.
    return stream_.has_value() ? Guarded([&] { return Start(); }) : absl::OkStatus();
  }

  absl::StatusOr<StepResult> Wait() override {
    StepResult result;
    absl::Status status = Guarded([&] {
      if (!stream_.has_value()) {
        if (absl::Status started = Start(); !started.ok()) return started;
      }
      result = End();
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    return result;
  }

 private:
  // The step under way.
  struct Step {
    const Batch* batch = nullptr;
    bool filled = false;  // nothing was computed
    bool cuda_graph = false;
    RetrievalSeconds seconds;
    StepOutputs outputs;
  };

  // Runs `work` on the device and stream, torch's exceptions made a status.
  template <class Work>
  absl::Status Guarded(Work work) {
    try {
      const c10::InferenceMode no_autograd;
      const c10::OptionalDeviceGuard on_device(parts_.device);  // streams and events are the current device's
      if (!stream_.has_value()) return work();
      const c10::cuda::CUDAStreamGuard on_stream(*stream_);
      return work();
    } catch (const c10::Error& error) {
      return absl::InternalError(absl::StrCat("model step failed: ", error.what_without_backtrace()));
    } catch (const std::exception& error) {
      return absl::InternalError(absl::StrCat("model step failed: ", error.what()));
    }
  }

  absl::Status Start() {
    RECORD_USER_SCOPE("step");  // as profiles show it
    const Batch& batch = *step_.batch;
    step_ = {&batch, false, false, {}, {}};
    absl::StatusOr<StepOutputs> outputs;
    if (graphs_ != nullptr && graphs_->Prepare(batch)) {
      outputs = graphs_->Run(batch);
      step_.cuda_graph = true;
    } else {
      auto tensors = inputs_.Copy(batch);
      if (!tensors.ok()) return tensors.status();
      if (parts_.fill_prompts && batch.num_rows > batch.num_decode_rows) {
        step_.filled = true;
        return Fill(*tensors);
      }
      outputs = Forward(*tensors, batch.time_retrieval ? &step_.seconds : nullptr);
    }
    if (!outputs.ok()) return outputs.status();
    step_.outputs = *std::move(outputs);
    return absl::OkStatus();
  }

  StepResult End() {
    const Batch& batch = *step_.batch;
    const StepOutputs outputs = std::exchange(step_.outputs, {});
    StepResult result;
    result.cuda_graph = step_.cuda_graph;
    result.tokens.resize(batch.samples.size());
    result.scored.resize(batch.scored.size());
    if (step_.filled) {
      if (stream_.has_value()) stream_->synchronize();
      return result;
    }
    if (step_.seconds.total > 0) {
      step_.seconds.total += step_.seconds.encode;
      result.retrieval = step_.seconds;
    }
    Sample(batch, outputs, &result.tokens);
    for (size_t begin = 0; begin < batch.scored.size(); begin += kScoredTile) {
      const size_t count = std::min(kScoredTile, batch.scored.size() - begin);
      Score(outputs.scored.narrow(0, static_cast<int64_t>(begin), static_cast<int64_t>(count)), &batch.scored[begin],
            &result.scored[begin]);
    }
    if (batch.quality.has_value()) result.quality = parts_.attention->TakeQuality();
    return result;
  }

  absl::StatusOr<StepOutputs> Forward(const StepTensors& step, RetrievalSeconds* seconds) {
    const int64_t num_samples = step.sample_index.size(0);
    std::vector<int64_t> scored;
    for (const ScoredToken& token : step.batch->scored) scored.push_back(token.token_index);
    const auto num_scored = static_cast<int64_t>(scored.size());
    at::Tensor wanted = step.sample_index;
    if (num_scored > 0) wanted = at::cat({wanted, at::tensor(scored, at::kLong).to(parts_.device)});
    auto states = parts_.decoder->HiddenStates(step, wanted, parts_.hashes, parts_.attention.get(), seconds);
    if (!states.ok()) return states.status();
    StepOutputs outputs;
    outputs.logits = parts_.decoder->Logits(states->narrow(0, 0, num_samples));
    if (num_scored > 0) outputs.scored = states->narrow(0, num_samples, num_scored);
    // The CPU's sampler reads its logits once for everything.
    if (stream_.has_value() && outputs.logits.size(0) > 0) {
      std::tie(outputs.best, outputs.best_ids) = at::max(outputs.logits, 1);
    }
    return outputs;
  }

  absl::Status Fill(const StepTensors& step) {
    for (int32_t layer = 0; layer < parts_.num_layers; ++layer) {
      const auto hash = parts_.hashes.find(layer);
      auto status = parts_.attention->AppendRandom(layer, hash == parts_.hashes.end() ? nullptr : &hash->second, step,
                                                   parts_.dtype);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  void Score(const at::Tensor& states, const ScoredToken* tokens, TokenLogprob* logprobs) const {
    const at::Tensor logits = parts_.decoder->Logits(states).to(at::kCPU).contiguous();
    const auto vocab_size = static_cast<int32_t>(logits.size(1));
    const float* const rows = logits.const_data_ptr<float>();
    ParallelFor(logits.size(0), 1, [&](int64_t begin, int64_t end) {
      thread_local Sampler sampler;
      for (int64_t i = begin; i < end; ++i) {
        logprobs[i] = sampler.Score(rows + i * vocab_size, vocab_size, tokens[i]);
      }
    });
  }

  void Sample(const Batch& batch, const StepOutputs& outputs, std::vector<SampledToken>* tokens) {
    RECORD_USER_SCOPE("sample");
    const auto num_samples = static_cast<int64_t>(batch.samples.size());
    tokens->resize(num_samples);
    if (num_samples == 0) {
      if (stream_.has_value()) stream_->synchronize();
      return;
    }
    if (outputs.best.defined() && std::all_of(batch.samples.begin(), batch.samples.end(), TakesHighestLogit)) {
      const at::Tensor best = ToHost(outputs.best, &host_best_);
      const at::Tensor best_ids = ToHost(outputs.best_ids, &host_best_ids_);
      stream_->synchronize();
      for (int64_t i = 0; i < num_samples; ++i) {
        const bool usable = std::isfinite(best.const_data_ptr<float>()[i]);
        (*tokens)[i].token_id = usable ? static_cast<int32_t>(best_ids.const_data_ptr<int64_t>()[i]) : kNoToken;
      }
      return;
    }
    at::Tensor logits = outputs.logits;
    if (stream_.has_value()) {
      logits = ToHost(logits, &host_logits_);
      stream_->synchronize();
    }
    const auto vocab_size = static_cast<int32_t>(logits.size(1));
    const float* const rows = logits.const_data_ptr<float>();
    ParallelFor(num_samples, 1, [&](int64_t begin, int64_t end) {
      thread_local Sampler sampler;
      for (int64_t i = begin; i < end; ++i) {
        (*tokens)[i] = sampler.Sample(rows + i * vocab_size, vocab_size, batch.samples[i]);
      }
    });
  }

  // Enqueues the copy of `values` into pinned memory that is kept for it, and returns that.
  static at::Tensor ToHost(const at::Tensor& values, at::Tensor* kept) {
    if (!kept->defined() || kept->size(0) < values.size(0)) {
      *kept = at::empty(values.sizes(), at::TensorOptions().dtype(values.scalar_type()).pinned_memory(true));
    }
    at::Tensor host = kept->narrow(0, 0, values.size(0));
    host.copy_(values, /*non_blocking=*/true);
    return host;
  }

  RunnerParts parts_;
  StepInputs inputs_;
  const std::optional<c10::cuda::CUDAStream> stream_;  // on a GPU
  std::unique_ptr<DecodeGraphs> graphs_;               // null: every step is enqueued kernel by kernel
  Step step_;
  at::Tensor host_logits_, host_best_, host_best_ids_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelRunner>> MakeTorchModelRunner(RunnerParts parts) {
  auto runner = std::make_unique<TorchModelRunner>(std::move(parts));
  if (auto status = runner->CaptureGraphs(); !status.ok()) return status;
  return std::unique_ptr<ModelRunner>(std::move(runner));
}

}  // namespace spotlight::engine
