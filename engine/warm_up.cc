#include "engine/warm_up.h"

#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "engine/clock.h"
#include "engine/decode_graphs.h"
#include "engine/device.h"
#include "engine/device_sampler.h"
#include "engine/page_pool.h"
#include "engine/step_inputs.h"
#include "engine/torch_status.h"
#include "kernels/small_linear.h"

namespace spotlight::engine {
namespace {

constexpr int64_t kPaddingSlot = -1;

c10::CachingAllocator::Stat ReservedBytes(at::Device device) {
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(device.index());
  return stats.reserved_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
}

// `tokens` tokens of prompts after `past` others each, of as few prompts as their contexts allow; the last is sampled.
Batch ChunksOf(int32_t tokens, int32_t past, const RunnerParts& parts) {
  Batch batch;
  batch.query_begin = {0};
  const int32_t longest = parts.max_context - past;
  while (batch.num_tokens() < tokens && batch.num_rows < parts.capacity.max_rows) {
    const int32_t count = std::min(tokens - batch.num_tokens(), longest);
    for (int32_t i = 0; i < count; ++i) batch.positions.push_back(past + i);
    batch.token_ids.resize(batch.positions.size(), 0);
    batch.query_begin.push_back(batch.num_tokens());
    batch.context_len.push_back(past + count);
    ++batch.num_rows;
  }
  batch.slots.assign(batch.num_tokens(), kPaddingSlot);
  batch.num_select.assign(batch.num_rows, 0);
  batch.max_pages = PagesFor(batch.context_len.front());
  batch.page_table.assign(static_cast<size_t>(batch.num_rows) * batch.max_pages, 0);
  batch.samples.resize(1);
  batch.samples.front().token_index = batch.num_tokens() - 1;
  return batch;
}

// As the runner makes them, one at a time.
class Steps {
 public:
  explicit Steps(const RunnerParts& parts)
      : parts_(parts),
        inputs_(parts.capacity, parts.device),
        sampler_(parts.capacity, parts.vocab_size, parts.device) {}

  // Rows and tokens of padding alone, as captured graphs have them.
  absl::Status Decode(const GraphKey& key) {
    if (key.decode_rows() + key.chunk_tokens > parts_.capacity.max_tokens) return absl::OkStatus();
    Batch padding;
    PadBatch(Batch(), key, &padding);
    return Run(padding, key.max_context);
  }

  absl::Status Chunks(int32_t tokens, int32_t past) { return Run(ChunksOf(tokens, past, parts_), 0); }

 private:
  // For rows of at least `max_context` tokens, whatever the batch's have.
  absl::Status Run(const Batch& batch, int32_t max_context) {
    const std::vector<kernels::SampleRowParams> no_output(batch.samples.size());
    auto step = inputs_.Copy(batch, no_output);
    if (!step.ok()) return step.status();
    step->max_context = std::max(step->max_context, max_context);
    if (auto status = sampler_.Feed(step->token_ids); !status.ok()) return status;
    const auto states =
        parts_.decoder->HiddenStates(*step, step->sample_index, parts_.hashes, parts_.attention.get(), nullptr);
    if (!states.ok()) return states.status();
    auto status = sampler_.Sample(parts_.decoder->HeadOutputs(*states), step->sample_rows);
    if (!status.ok()) return status;
    C10_CUDA_CHECK(cudaStreamSynchronize(*parts_.stream));  // the next step's inputs take the place of these
    return absl::OkStatus();
  }

  const RunnerParts& parts_;
  StepInputs inputs_;
  DeviceSampler sampler_;
};

class WarmUpRun {
 public:
  WarmUpRun(const RunnerParts& parts, double max_seconds, WarmUpResult* result)
      : parts_(parts), until_(start_ + absl::Seconds(max_seconds)), result_(result), steps_(parts) {}

  absl::Status Run() {
    if (auto status = LargestSteps(); !status.ok()) return status;
    if (auto status = ShorterChunks(); !status.ok()) return status;
    return Blocks();
  }

 private:
  bool HasTime() const { return Clock::Steady()->Now() < until_; }

  // Their memory is measured, so they run whatever the time. First a few tokens: workspaces that libraries keep for
  // good shall not be cut out of a long step's memory, which could not be given back then.
  absl::Status LargestSteps() {
    const int32_t few = std::min(2 * kernels::kMaxSmallLinearFp8Rows, parts_.capacity.max_tokens);
    if (auto status = steps_.Chunks(few, 0); !status.ok()) return status;
    if (auto status = steps_.Chunks(parts_.capacity.max_tokens, 0); !status.ok()) return status;
    const int32_t rows = parts_.capacity.max_rows;
    std::vector<GraphKey> keys = {{rows, 0, 0, parts_.max_context}, {1, 0, 0, parts_.max_context}};
    if (!parts_.hashes.empty()) {
      for (const int32_t context : {parts_.max_context, std::min(parts_.max_context, DecodeGraphs::kShortContext)}) {
        keys.push_back({0, rows, 0, context});
        keys.push_back({0, 1, 0, context});
      }
    }
    for (const int32_t tokens : parts_.short_chunks) keys.push_back({0, 0, tokens, parts_.max_context});
    for (const GraphKey& key : keys) {
      if (auto status = steps_.Decode(key); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // Matrix libraries have other kernels for fewer rows. Where there is room they begin behind a block of keys, as the
  // ends of prompts do.
  absl::Status ShorterChunks() {
    const auto unit = static_cast<int32_t>(PrefillBlocks().unit);
    for (int32_t tokens = parts_.capacity.max_tokens / 2; tokens > kernels::kMaxSmallLinearRows && HasTime();
         tokens /= 2) {
      const bool is_end = tokens < unit && unit + tokens <= parts_.max_context;
      if (auto status = steps_.Chunks(tokens, is_end ? unit : 0); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status Blocks() {
    if (parts_.dtype == at::kFloat) return absl::OkStatus();  // there prompts attend as decode rows do
    const auto blocks = BlocksOfPrompts(parts_.capacity.max_tokens, parts_.max_context, PrefillBlocks());
    result_->num_blocks = result_->num_blocks_left = static_cast<int32_t>(blocks.size());
    for (const PrefillBlock& block : blocks) {
      if (!HasTime()) break;
      if (auto status = parts_.attention->RunBlock(block, parts_.dtype); !status.ok()) return status;
      --result_->num_blocks_left;
    }
    C10_CUDA_CHECK(cudaStreamSynchronize(*parts_.stream));
    return absl::OkStatus();
  }

  const RunnerParts& parts_;
  const absl::Duration start_ = Clock::Steady()->Now();
  const absl::Duration until_;
  WarmUpResult* const result_;
  Steps steps_;
};

// Runs the steps, gives their memory back, and returns how much it was.
absl::StatusOr<int64_t> Measured(const std::function<absl::Status()>& equip, double max_seconds, RunnerParts* parts,
                                 WarmUpResult* result) {
  C10_CUDA_CHECK(cudaDeviceSynchronize());  // weights came over on another stream
  c10::cuda::CUDACachingAllocator::emptyCache();
  c10::cuda::CUDACachingAllocator::resetPeakStats(parts->device.index());
  absl::Status status = equip();
  if (status.ok()) status = WarmUpRun(*parts, max_seconds, result).Run();
  parts->attention.reset();
  parts->cache.reset();
  if (!status.ok()) return status;
  c10::cuda::CUDACachingAllocator::emptyCache();
  // What is still there are weights, and workspaces that libraries keep.
  const auto reserved = ReservedBytes(parts->device);
  return reserved.peak - reserved.current;
}

// Libraries that find no memory say so in many ways.
absl::Status NameLackOfMemory(const absl::Status& status, at::Device device) {
  constexpr int64_t kLittle = int64_t{64} << 20;
  const auto available = AvailableBytes(device);
  if (status.code() == absl::StatusCode::kResourceExhausted || !available.ok() || *available >= kLittle) return status;
  return absl::ResourceExhaustedError(
      absl::StrCat(status.message(), " (", *available >> 20, " MiB of device memory are free)"));
}

}  // namespace

absl::StatusOr<WarmUpResult> WarmUp(const std::function<absl::Status()>& equip, double max_seconds,
                                    RunnerParts* parts) {
  const std::string doing =
      absl::StrCat("warming up with steps of ", parts->capacity.max_tokens, " tokens (--max-step-tokens) and ",
                   parts->capacity.max_rows, " rows (--max-running)");
  const absl::Duration start = Clock::Steady()->Now();
  const c10::InferenceMode no_autograd;
  const c10::OptionalDeviceGuard on_device(parts->device);
  const c10::cuda::CUDAStreamGuard on_stream(*parts->stream);
  WarmUpResult result;
  try {
    const auto step_bytes = Measured(equip, max_seconds, parts, &result);
    if (!step_bytes.ok()) {
      const absl::Status status(step_bytes.status().code(), absl::StrCat(doing, ": ", step_bytes.status().message()));
      return NameLackOfMemory(status, parts->device);
    }
    result.step_bytes = *step_bytes;
  } catch (const c10::Error& error) {
    return NameLackOfMemory(StatusOf(error, doing), parts->device);
  }
  result.seconds = absl::ToDoubleSeconds(Clock::Steady()->Now() - start);
  return result;
}

}  // namespace spotlight::engine
