#include "engine/torch_model_runner.h"

#include <ATen/record_function.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <deque>
#include <exception>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/decode_graphs.h"
#include "engine/device_sampler.h"
#include "engine/ops/parallel.h"
#include "engine/sampler.h"
#include "engine/short_chunk.h"
#include "engine/torch_status.h"

namespace spotlight::engine {
namespace {

// Prompt tokens are scored so many at a time: logits of a whole chunk would take hundreds of megabytes.
constexpr int64_t kScoredTile = DeviceSampler::kMaxRows;

// On a GPU, after a warm-up: kernels whose first launch is a capture's or a later step's, and the allocator's segments
// of 20 MiB, of which the graphs' pool and every stream have their own.
constexpr int64_t kLateBytes = int64_t{128} << 20;

class TorchModelRunner : public ModelRunner {
 public:
  explicit TorchModelRunner(RunnerParts parts)
      : parts_(std::move(parts)),
        inputs_(parts_.capacity, parts_.device),
        stream_(parts_.stream.has_value() ? parts_.stream : StepStream(parts_.device)) {
    if (!stream_.has_value()) return;
    sampler_ = std::make_unique<DeviceSampler>(parts_.capacity, parts_.vocab_size, parts_.device);
    if (!parts_.cuda_graphs) return;
    graphs_ = std::make_unique<DecodeGraphs>(&inputs_, parts_.capacity, parts_.short_chunks, parts_.max_context,
                                             [this](const StepTensors& step) { return DecodeAndSample(step); });
  }

  // After a fault steps may be under way, whose copies use this one's memory.
  ~TorchModelRunner() override {
    if (stream_.has_value()) cudaStreamSynchronize(stream_->stream());
  }

  // Before the first step.
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

  // A CPU has nothing that works by itself: there Wait does it all.
  int32_t max_in_flight() const override { return stream_.has_value() ? 2 : 1; }

  bool PreparesFor(const Batch& batch) const override { return graphs_ != nullptr && graphs_->Captures(batch); }

  absl::Status Launch(const Batch& batch) override {
    steps_.emplace_back();
    steps_.back().batch = &batch;
    return stream_.has_value() ? Guarded([&] { return Start(&steps_.back()); }) : absl::OkStatus();
  }

  absl::StatusOr<StepResult> Wait() override {
    if (steps_.empty()) return absl::InternalError("no step is under way");
    Step step = std::move(steps_.front());
    steps_.pop_front();
    StepResult result;
    result.tokens.resize(step.batch->samples.size());
    result.scored.resize(step.batch->scored.size());
    absl::Status status =
        Guarded([&] { return stream_.has_value() ? Finish(&step, &result) : RunOnCpu(step, &result); });
    if (!status.ok()) return status;
    return result;
  }

 private:
  // One that was launched and not waited for.
  struct Step {
    const Batch* batch = nullptr;
    bool cuda_graph = false, awaits_graph = false;
    absl::optional<absl::Status> graph_capture;
    at::Tensor clocks;                        // on a GPU, of a timed step (RetrievalClocks)
    std::unique_ptr<PendingQuality> quality;  // on a GPU, of the step before
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
      return StatusOf(error, "model step failed");
    } catch (const std::exception& error) {
      return absl::InternalError(absl::StrCat("model step failed: ", error.what()));
    }
  }

  // Enqueues all that a GPU does for a step.
  absl::Status Start(Step* step) {
    RECORD_USER_SCOPE("step");  // as profiles show it
    const Batch& batch = *step->batch;
    step->quality = std::move(quality_);
    parts_.attention->AwaitQuality(batch);
    auto sample_rows = sampler_->Prepare(batch);
    if (!sample_rows.ok()) return sample_rows.status();
    const bool fill = parts_.fill_prompts && batch.num_rows > batch.num_decode_rows;
    DecodeGraphs* const graphs = fill ? nullptr : graphs_.get();
    if (graphs != nullptr && graphs->Prepare(batch, &step->graph_capture)) {
      step->cuda_graph = true;
      if (auto status = graphs->Run(batch, **sample_rows); !status.ok()) return status;
    } else {
      const bool pads = graphs != nullptr && graphs->Pads(batch);
      step->awaits_graph = graphs != nullptr && graphs->Awaits(batch);
      auto tensors = pads ? graphs->CopyPadded(batch, **sample_rows) : inputs_.Copy(batch, **sample_rows);
      if (!tensors.ok()) return tensors.status();
      absl::Status status = fill ? Fill(*tensors) : DecodeAndSample(*tensors);
      if (!status.ok()) return status;
    }
    if (batch.time_retrieval && !fill) step->clocks = parts_.attention->CopyClocks(batch);
    sampler_->CopyOut(static_cast<int64_t>((*sample_rows)->size()));
    return fill ? absl::OkStatus() : MeasureQuality(*step);
  }

  // Behind the step's own work, its tokens' way to the host included.
  absl::Status MeasureQuality(const Step& step) {
    const absl::optional<QualityTarget>& target = step.batch->quality;
    if (!target.has_value()) return absl::OkStatus();
    const LayerHash& hash = parts_.hashes.at(target->layer);
    if (step.cuda_graph) parts_.attention->KeepRow(target->layer, graphs_->RowOf(*step.batch, target->row), hash);
    auto pending = parts_.attention->MeasureQuality(*step.batch, hash);
    if (!pending.ok()) return pending.status();
    quality_ = *std::move(pending);
    return absl::OkStatus();
  }

  // What Start left.
  absl::Status Finish(Step* step, StepResult* result) {
    const kernels::SampleOutput* const outputs = sampler_->Take();
    const size_t num_samples = step->batch->samples.size();
    for (size_t i = 0; i < num_samples; ++i) {
      result->tokens[i].token_id = outputs[i].token_id;
      const int32_t num_top = step->batch->samples[i].num_logprobs;
      if (num_top >= 0) result->tokens[i].logprob = LogprobOf(outputs[i], num_top);
    }
    for (size_t i = 0; i < result->scored.size(); ++i) {
      result->scored[i] = LogprobOf(outputs[num_samples + i], step->batch->scored[i].num_top);
    }
    result->cuda_graph = step->cuda_graph;
    result->awaits_graph = step->awaits_graph;
    result->graph_capture = std::move(step->graph_capture);
    if (step->clocks.defined()) result->retrieval = RetrievalClocks::SecondsOf(step->clocks);
    if (step->quality != nullptr) result->quality = step->quality->Wait();
    return absl::OkStatus();
  }

  static TokenLogprob LogprobOf(const kernels::SampleOutput& output, int32_t num_top) {
    TokenLogprob logprob;
    logprob.token_id = output.token_id;
    if (output.token_id == kNoToken) return logprob;
    logprob.logprob = output.logprob;
    for (int32_t i = 0; i < std::min(num_top, kernels::kMaxTopLogprobs) && output.top_ids[i] >= 0; ++i) {
      logprob.top.emplace_back(output.top_ids[i], output.top_logprobs[i]);
    }
    return logprob;
  }

  // A whole step on a GPU, as graphs capture it: the tokens of the step before in, its own tokens out.
  absl::Status DecodeAndSample(const StepTensors& step) {
    if (auto status = sampler_->Feed(step.token_ids); !status.ok()) return status;
    auto states = HiddenStates(step, /*seconds=*/nullptr);
    if (!states.ok()) return states.status();
    RECORD_USER_SCOPE("sample");
    const auto num_samples = static_cast<int64_t>(step.batch->samples.size());
    const int64_t num_rows = states->size(0);
    constexpr auto kRowBytes = static_cast<int64_t>(sizeof(kernels::SampleRowParams));
    for (int64_t begin = 0, count = num_samples; begin < num_rows; begin += count) {
      if (begin >= num_samples) count = std::min(kScoredTile, num_rows - begin);
      if (count == 0) continue;
      auto status = sampler_->Sample(parts_.decoder->HeadOutputs(states->narrow(0, begin, count)),
                                     step.sample_rows.narrow(0, begin * kRowBytes, count * kRowBytes));
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // Of the samples, then of the scored tokens.
  absl::StatusOr<at::Tensor> HiddenStates(const StepTensors& step, RetrievalSeconds* seconds) {
    return parts_.decoder->HiddenStates(step, step.sample_index, parts_.hashes, parts_.attention.get(), seconds);
  }

  absl::Status Fill(const StepTensors& step) {
    for (int32_t layer = 0; layer < parts_.num_layers; ++layer) {
      const auto hash = parts_.hashes.find(layer);
      auto status = parts_.attention->AppendRandom(layer, hash == parts_.hashes.end() ? nullptr : &hash->second, step,
                                                   parts_.dtype);
      if (!status.ok()) return status;
    }
    if (stream_.has_value()) sampler_->SampleNothing(step.sample_index.size(0));
    return absl::OkStatus();
  }

  absl::Status RunOnCpu(const Step& step, StepResult* result) {
    RECORD_USER_SCOPE("step");
    const Batch& batch = *step.batch;
    auto tensors = inputs_.Copy(batch, {});
    if (!tensors.ok()) return tensors.status();
    if (parts_.fill_prompts && batch.num_rows > batch.num_decode_rows) return Fill(*tensors);
    RetrievalSeconds seconds;
    auto states = HiddenStates(*tensors, batch.time_retrieval ? &seconds : nullptr);
    if (!states.ok()) return states.status();
    SampleOnCpu(batch, *states, result);
    if (seconds.total > 0) {
      result->retrieval = seconds;
      result->retrieval->total += seconds.encode;
    }
    if (auto status = MeasureQuality(step); !status.ok()) return status;
    if (quality_ != nullptr) result->quality = std::exchange(quality_, nullptr)->Wait();
    return absl::OkStatus();
  }

  void SampleOnCpu(const Batch& batch, const at::Tensor& states, StepResult* result) {
    RECORD_USER_SCOPE("sample");
    const auto num_samples = static_cast<int64_t>(batch.samples.size());
    if (num_samples > 0) {
      OnEachRow(states.narrow(0, 0, num_samples), [&](Sampler* sampler, const float* logits, int32_t vocab, int64_t i) {
        result->tokens[i] = sampler->Sample(logits, vocab, batch.samples[i]);
      });
    }
    const auto num_scored = static_cast<int64_t>(batch.scored.size());
    for (int64_t begin = 0; begin < num_scored; begin += kScoredTile) {
      const at::Tensor tile = states.narrow(0, num_samples + begin, std::min(kScoredTile, num_scored - begin));
      OnEachRow(tile, [&](Sampler* sampler, const float* logits, int32_t vocab, int64_t i) {
        result->scored[begin + i] = sampler->Score(logits, vocab, batch.scored[begin + i]);
      });
    }
  }

  // work(sampler, logits, vocabulary, row) for every row, on all threads.
  template <class Work>
  void OnEachRow(const at::Tensor& states, const Work& work) const {
    const at::Tensor logits = parts_.decoder->Logits(states).contiguous();
    const auto vocab_size = static_cast<int32_t>(logits.size(1));
    const float* const rows = logits.const_data_ptr<float>();
    ParallelFor(logits.size(0), 1, [&](int64_t begin, int64_t end) {
      thread_local Sampler sampler;
      for (int64_t i = begin; i < end; ++i) work(&sampler, rows + i * vocab_size, vocab_size, i);
    });
  }

  RunnerParts parts_;
  StepInputs inputs_;
  const std::optional<c10::cuda::CUDAStream> stream_;  // on a GPU
  std::unique_ptr<DeviceSampler> sampler_;             // on a GPU
  std::unique_ptr<DecodeGraphs> graphs_;               // null: every step is enqueued kernel by kernel
  std::deque<Step> steps_;
  std::unique_ptr<PendingQuality> quality_;  // of the latest step
};

}  // namespace

std::optional<c10::cuda::CUDAStream> StepStream(at::Device device) {
  if (!device.is_cuda()) return std::nullopt;
  return c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device.index());
}

RunnerBytes TorchModelRunnerBytes(const RunnerParts& parts, int64_t row_bytes) {
  if (parts.device.is_cpu()) return {};
  const StepCapacity& capacity = parts.capacity;
  const int64_t logits = std::max<int64_t>(capacity.max_rows, kScoredTile) * parts.vocab_size *
                         static_cast<int64_t>(c10::elementSize(parts.dtype));
  const int64_t graph_tokens = std::min(capacity.max_tokens, capacity.max_rows + kMaxShortChunk);
  const int64_t graphs =
      parts.cuda_graphs ? DecodeGraphs::Bytes(parts.num_layers, graph_tokens * row_bytes + logits) : 0;
  return {StepInputs::Bytes(capacity) + DeviceSampler::Bytes(capacity, parts.vocab_size) + logits, graphs + kLateBytes};
}

absl::StatusOr<std::unique_ptr<ModelRunner>> MakeTorchModelRunner(RunnerParts parts) {
  const char* doing = "making the buffers of steps";
  try {
    const c10::InferenceMode no_autograd;
    auto runner = std::make_unique<TorchModelRunner>(std::move(parts));
    doing = "capturing the graphs of decode steps";
    if (auto status = runner->CaptureGraphs(); !status.ok()) return status;
    return std::unique_ptr<ModelRunner>(std::move(runner));
  } catch (const c10::Error& error) {
    return StatusOf(error, doing);
  }
}

}  // namespace spotlight::engine
