#include "engine/torch_model_runner.h"

#include <ATen/ops/from_blob.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/ops/parallel.h"
#include "engine/sampler.h"

namespace spotlight::engine {
namespace {

template <typename T>
at::Tensor ToDevice(const std::vector<T>& values, at::IntArrayRef shape, at::ScalarType dtype, at::Device device) {
  // The batch outlives the step, so the CPU reads it in place.
  return at::from_blob(const_cast<T*>(values.data()), shape, at::TensorOptions().dtype(dtype)).to(device);
}

// Prompt tokens are scored so many at a time: logits of a whole chunk would take hundreds of megabytes.
constexpr size_t kScoredTile = 64;

class TorchModelRunner : public ModelRunner {
 public:
  explicit TorchModelRunner(RunnerParts parts) : parts_(std::move(parts)) {}

  absl::StatusOr<StepResult> Run(const Batch& batch) override {
    try {
      return RunStep(batch);
    } catch (const c10::Error& error) {
      return absl::InternalError(absl::StrCat("model step failed: ", error.what_without_backtrace()));
    } catch (const std::exception& error) {
      return absl::InternalError(absl::StrCat("model step failed: ", error.what()));
    }
  }

 private:
  absl::StatusOr<StepResult> RunStep(const Batch& batch) {
    const c10::InferenceMode no_autograd;
    const c10::OptionalDeviceGuard on_device(parts_.device);  // streams and events are the current device's
    std::vector<int32_t> token_context(batch.positions);
    for (int32_t& position : token_context) ++position;
    const StepTensors step = CopyIn(batch, token_context);
    std::vector<int64_t> wanted;  // the samples' tokens, then the scored ones
    for (const SampleRow& row : batch.samples) wanted.push_back(row.token_index);
    for (const ScoredToken& token : batch.scored) wanted.push_back(token.token_index);
    const auto num_samples = static_cast<int64_t>(batch.samples.size());

    StepResult result;
    RetrievalSeconds seconds;
    auto states = parts_.decoder->HiddenStates(
        step, ToDevice(wanted, {static_cast<int64_t>(wanted.size())}, at::kLong, parts_.device), parts_.hashes,
        parts_.attention.get(), batch.time_retrieval ? &seconds : nullptr);
    if (!states.ok()) return states.status();
    if (seconds.total > 0) {
      seconds.total += seconds.encode;
      result.retrieval = seconds;
    }
    const at::Tensor host_logits = parts_.decoder->Logits(states->narrow(0, 0, num_samples)).to(at::kCPU).contiguous();
    if (batch.quality.has_value()) result.quality = parts_.attention->TakeQuality();
    const auto vocab_size = static_cast<int32_t>(host_logits.size(1));
    const float* const rows = host_logits.data_ptr<float>();
    result.tokens.resize(num_samples);
    ParallelFor(num_samples, 1, [&](int64_t begin, int64_t end) {
      thread_local Sampler sampler;
      for (int64_t i = begin; i < end; ++i) {
        result.tokens[i] = sampler.Sample(rows + i * vocab_size, vocab_size, batch.samples[i]);
      }
    });
    result.scored.resize(batch.scored.size());
    for (size_t begin = 0; begin < batch.scored.size(); begin += kScoredTile) {
      const size_t count = std::min(kScoredTile, batch.scored.size() - begin);
      Score(states->narrow(0, num_samples + static_cast<int64_t>(begin), static_cast<int64_t>(count)),
            &batch.scored[begin], &result.scored[begin]);
    }
    return result;
  }

  void Score(const at::Tensor& states, const ScoredToken* tokens, TokenLogprob* logprobs) const {
    const at::Tensor logits = parts_.decoder->Logits(states).to(at::kCPU).contiguous();
    const auto vocab_size = static_cast<int32_t>(logits.size(1));
    const float* const rows = logits.data_ptr<float>();
    ParallelFor(logits.size(0), 1, [&](int64_t begin, int64_t end) {
      thread_local Sampler sampler;
      for (int64_t i = begin; i < end; ++i) {
        logprobs[i] = sampler.Score(rows + i * vocab_size, vocab_size, tokens[i]);
      }
    });
  }

  StepTensors CopyIn(const Batch& batch, const std::vector<int32_t>& token_context) const {
    const int64_t tokens = batch.num_tokens(), rows = batch.num_rows;
    StepTensors step;
    step.batch = &batch;
    step.token_ids = ToDevice(batch.token_ids, {tokens}, at::kInt, parts_.device);
    step.positions = ToDevice(batch.positions, {tokens}, at::kInt, parts_.device);
    step.slots = ToDevice(batch.slots, {tokens}, at::kLong, parts_.device);
    step.page_table = ToDevice(batch.page_table, {rows, batch.max_pages}, at::kInt, parts_.device);
    step.context_len = ToDevice(batch.context_len, {rows}, at::kInt, parts_.device);
    step.num_select = ToDevice(batch.num_select, {rows}, at::kInt, parts_.device);
    step.token_context = ToDevice(token_context, {tokens}, at::kInt, parts_.device);
    step.max_context = *std::max_element(batch.context_len.begin(), batch.context_len.end());
    return step;
  }

  RunnerParts parts_;
};

}  // namespace

std::unique_ptr<ModelRunner> MakeTorchModelRunner(RunnerParts parts) {
  return std::make_unique<TorchModelRunner>(std::move(parts));
}

}  // namespace spotlight::engine
