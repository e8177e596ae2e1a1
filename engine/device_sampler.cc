#include "engine/device_sampler.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "engine/ops/execution.h"
#include "engine/ops/pinned.h"
#include "engine/ops/tensor.h"
#include "engine/ops/workspace.h"
#include "engine/sampler.h"

namespace spotlight::engine {
namespace {

using kernels::kMaxSampleEntries;
using kernels::SampleEntry;
using kernels::SampleOutput;
using kernels::SampleRowParams;

constexpr auto kRowBytes = static_cast<int64_t>(sizeof(SampleRowParams));
constexpr auto kOutputBytes = static_cast<int64_t>(sizeof(SampleOutput));
constexpr auto kEntriesBytes = static_cast<int64_t>(kMaxSampleEntries * sizeof(SampleEntry));

int64_t WorkspaceBytes(const StepCapacity& capacity, int32_t vocab_size) {
  const auto rows = static_cast<int32_t>(std::max<int64_t>(capacity.max_rows, DeviceSampler::kMaxRows));
  return static_cast<int64_t>(kernels::SampleWorkspaceBytes(rows, vocab_size));
}

template <typename T>
T* PointerTo(const at::Tensor& bytes) {
  return static_cast<T*>(bytes.data_ptr());
}

template <typename T>
at::Tensor Pinned(const std::vector<T>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  at::Tensor pinned = PinnedEmpty({bytes}, at::kByte);
  if (bytes > 0) std::memcpy(pinned.data_ptr(), values.data(), bytes);
  return pinned;
}

}  // namespace

int64_t DeviceSampler::Bytes(const StepCapacity& capacity, int32_t vocab_size) {
  return capacity.max_rows * (int64_t{vocab_size} * 4 + kEntriesBytes) + capacity.max_tokens * kOutputBytes +
         WorkspaceBytes(capacity, vocab_size);
}

DeviceSampler::DeviceSampler(const StepCapacity& capacity, int32_t vocab_size, at::Device device)
    : vocab_size_(vocab_size), device_(device), slots_(capacity.max_rows) {
  const auto bytes = at::TensorOptions().dtype(at::kByte).device(device);
  counts_ = at::empty({capacity.max_rows, vocab_size}, bytes.dtype(at::kInt));
  entries_ = at::empty({capacity.max_rows, kEntriesBytes}, bytes);
  out_ = at::empty({capacity.max_tokens * kOutputBytes}, bytes);
  if (const int64_t size = WorkspaceBytes(capacity, vocab_size); size > 0) workspace_ = MakeWorkspace(size, device);
  for (Copy& copy : copies_) copy.out = PinnedEmpty({capacity.max_tokens * kOutputBytes}, at::kByte);
}

absl::StatusOr<const std::vector<SampleRowParams>*> DeviceSampler::Prepare(const Batch& batch) {
  if (auto status = slots_.Assign(batch, &rows_, &fresh_); !status.ok()) return status;
  copies_[num_copied_ % 2].in.clear();
  for (const SampleSlots::Fresh& fresh : fresh_) {
    if (auto status = Write(fresh); !status.ok()) return status;
  }
  return &rows_;
}

absl::Status DeviceSampler::Write(const SampleSlots::Fresh& fresh) {
  std::vector<at::Tensor>* const in = &copies_[num_copied_ % 2].in;
  const std::vector<SampleEntry> entries = SampleEntriesOf(*fresh.row);
  if (!entries.empty()) {
    const at::Tensor& values = in->emplace_back(Pinned(entries));
    EnqueueCopy(entries_.select(0, fresh.slot).narrow(0, 0, values.size(0)), values);
  }
  if (!IsPenalised(*fresh.row)) return absl::OkStatus();
  std::vector<int32_t> ids;
  if (fresh.row->prompt_token_ids != nullptr) ids = *fresh.row->prompt_token_ids;
  const auto num_prompt = static_cast<int32_t>(ids.size());
  ids.insert(ids.end(), fresh.row->output_token_ids->begin(), fresh.row->output_token_ids->end());
  const at::Tensor& host_ids = in->emplace_back(Pinned(ids));
  const at::Tensor device_ids = at::empty_like(host_ids, host_ids.options().device(device_).pinned_memory(false));
  EnqueueCopy(device_ids, host_ids);
  kernels::CountTokensParams params;
  params.execution = ExecutionOn(device_);
  params.vocab_size = vocab_size_;
  params.num_prompt = num_prompt;
  params.num_generated = static_cast<int32_t>(ids.size()) - num_prompt;
  params.token_ids = PointerTo<const int32_t>(device_ids);
  params.counts = PointerTo<uint32_t>(counts_) + int64_t{fresh.slot} * vocab_size_;
  return kernels::CountTokens(params);
}

absl::Status DeviceSampler::Feed(const at::Tensor& token_ids) {
  kernels::FeedTokensParams params;
  params.execution = ExecutionOn(device_);
  params.num_tokens = static_cast<int32_t>(token_ids.size(0));
  params.token_ids = token_ids.data_ptr<int32_t>();
  params.sampled = PointerTo<const SampleOutput>(out_);
  return kernels::FeedTokens(params);
}

absl::Status DeviceSampler::Sample(const at::Tensor& logits, const at::Tensor& rows) {
  kernels::SampleParams params;
  params.execution = ExecutionOn(device_);
  params.dtype = ToKernelDType(logits.scalar_type());
  params.num_rows = static_cast<int32_t>(rows.size(0) / kRowBytes);
  params.vocab_size = vocab_size_;
  params.logits = logits.data_ptr();
  params.rows = PointerTo<const SampleRowParams>(rows);
  params.counts = PointerTo<uint32_t>(counts_);
  params.entries = PointerTo<const SampleEntry>(entries_);
  params.out = PointerTo<SampleOutput>(out_);
  if (workspace_.defined()) SetWorkspace(workspace_, &params);
  return kernels::Sample(params);
}

void DeviceSampler::SampleNothing(int64_t count) {
  out_.narrow(0, 0, count * kOutputBytes).zero_();
}

void DeviceSampler::CopyOut(int64_t count) {
  Copy& copy = copies_[num_copied_++ % 2];
  const auto stream = c10::cuda::getCurrentCUDAStream(device_.index());
  C10_CUDA_CHECK(cudaMemcpyAsync(copy.out.data_ptr(), out_.data_ptr(), count * kOutputBytes, cudaMemcpyDeviceToHost,
                                 stream.stream()));
  copy.done.record(stream);
}

const SampleOutput* DeviceSampler::Take() {
  const Copy& copy = copies_[num_taken_++ % 2];
  copy.done.synchronize();
  return PointerTo<const SampleOutput>(copy.out);
}

}  // namespace spotlight::engine
