#include "engine/device_sampler.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/ops/execution.h"
#include "engine/ops/pinned.h"
#include "engine/ops/tensor.h"
#include "engine/ops/workspace.h"
#include "engine/sampler.h"
#include "kernels/layout.h"

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

int64_t SequenceTokens(const StepCapacity& capacity) {
  return int64_t{capacity.max_pages} * kernels::kPageTokens;
}

template <typename T>
T* PointerTo(const at::Tensor& bytes) {
  return static_cast<T*>(bytes.data_ptr());
}

}  // namespace

int64_t DeviceSampler::Bytes(const StepCapacity& capacity, int32_t vocab_size) {
  return capacity.max_rows * (int64_t{vocab_size} * 4 + kEntriesBytes) + capacity.max_tokens * kOutputBytes +
         SequenceTokens(capacity) * 4 + WorkspaceBytes(capacity, vocab_size);
}

DeviceSampler::DeviceSampler(const StepCapacity& capacity, int32_t vocab_size, at::Device device)
    : vocab_size_(vocab_size), device_(device), slots_(capacity.max_rows) {
  const auto bytes = at::TensorOptions().dtype(at::kByte).device(device);
  counts_ = at::empty({capacity.max_rows, vocab_size}, bytes.dtype(at::kInt));
  entries_ = at::empty({capacity.max_rows, kEntriesBytes}, bytes);
  out_ = at::empty({capacity.max_tokens * kOutputBytes}, bytes);
  token_ids_ = at::empty({SequenceTokens(capacity)}, counts_.options());
  if (const int64_t size = WorkspaceBytes(capacity, vocab_size); size > 0) workspace_ = MakeWorkspace(size, device);
  for (Copy& copy : copies_) {
    copy.out = PinnedEmpty({capacity.max_tokens * kOutputBytes}, at::kByte);
    copy.entries = PinnedEmpty({capacity.max_rows, kEntriesBytes}, at::kByte);
    copy.token_ids = PinnedEmpty({SequenceTokens(capacity)}, at::kInt);
  }
}

absl::StatusOr<const std::vector<SampleRowParams>*> DeviceSampler::Prepare(const Batch& batch) {
  if (auto status = slots_.Assign(batch, &rows_, &fresh_); !status.ok()) return status;
  Copy& copy = copies_[num_copied_ % 2];
  copy.more.clear();
  copy.num_token_ids = 0;
  for (size_t i = 0; i < fresh_.size(); ++i) {
    if (auto status = Write(i); !status.ok()) return status;
  }
  return &rows_;
}

at::Tensor DeviceSampler::TokenIds(const SampleRow& row, Copy* copy) {
  const int64_t num_prompt = row.prompt_token_ids == nullptr ? 0 : row.prompt_token_ids->size();
  const int64_t num_ids = num_prompt + static_cast<int64_t>(row.output_token_ids->size());
  at::Tensor ids;
  if (copy->num_token_ids + num_ids <= copy->token_ids.size(0)) {
    ids = copy->token_ids.narrow(0, copy->num_token_ids, num_ids);
    copy->num_token_ids += num_ids;
  } else {
    // More than one sequence's worth in one step: LibTorch's cache of pinned memory, which may have to ask the driver.
    ids = copy->more.emplace_back(PinnedEmpty({num_ids}, at::kInt));
  }
  auto* const data = ids.data_ptr<int32_t>();
  if (num_prompt > 0) std::copy(row.prompt_token_ids->begin(), row.prompt_token_ids->end(), data);
  std::copy(row.output_token_ids->begin(), row.output_token_ids->end(), data + num_prompt);
  return ids;
}

absl::Status DeviceSampler::Write(size_t index) {
  const SampleSlots::Fresh& fresh = fresh_[index];
  Copy* const copy = &copies_[num_copied_ % 2];
  const std::vector<SampleEntry> entries = SampleEntriesOf(*fresh.row);
  if (const auto bytes = static_cast<int64_t>(entries.size() * sizeof(SampleEntry)); bytes > 0) {
    const at::Tensor values = copy->entries.select(0, static_cast<int64_t>(index)).narrow(0, 0, bytes);
    std::memcpy(values.data_ptr(), entries.data(), bytes);
    EnqueueCopy(entries_.select(0, fresh.slot).narrow(0, 0, bytes), values);
  }
  if (!IsPenalised(*fresh.row)) return absl::OkStatus();
  const at::Tensor ids = TokenIds(*fresh.row, copy);
  const int64_t num_ids = ids.size(0);
  if (num_ids > token_ids_.size(0)) {
    return absl::InternalError(
        absl::StrCat("a row of ", num_ids, " tokens to count, the sampler's capacity is ", token_ids_.size(0)));
  }
  EnqueueCopy(token_ids_.narrow(0, 0, num_ids), ids);
  kernels::CountTokensParams params;
  params.execution = ExecutionOn(device_);
  params.vocab_size = vocab_size_;
  params.num_generated = static_cast<int32_t>(fresh.row->output_token_ids->size());
  params.num_prompt = static_cast<int32_t>(num_ids) - params.num_generated;
  params.token_ids = token_ids_.data_ptr<int32_t>();
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
