#include "engine/step_inputs.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace spotlight::engine {
namespace {

constexpr int64_t kAlignment = 256;  // of each array: what the kernels read at best

int64_t AlignedBytes(int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// The arrays of a step, one behind the other: the samples' rows, slots and sample_index, then the 32-bit ones. A token
// is sampled or scored once at most.
int64_t IntegerBytes(int64_t tokens, int64_t rows) {
  return AlignedBytes(tokens * static_cast<int64_t>(sizeof(kernels::SampleRowParams))) + 2 * AlignedBytes(tokens * 8) +
         3 * AlignedBytes(tokens * 4) + 2 * AlignedBytes(rows * 4);
}

// Packs arrays in pinned memory and hands out what they will be on the device.
class Packer {
 public:
  Packer(const at::Tensor& host, const at::Tensor& device)
      : host_(static_cast<std::byte*>(host.data_ptr())), device_(device) {}

  template <typename T>
  at::Tensor Add(const std::vector<T>& values, at::ScalarType dtype) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    std::memcpy(host_ + size_, values.data(), bytes);
    at::Tensor view =
        at::from_blob(static_cast<std::byte*>(device_.data_ptr()) + size_,
                      {bytes / static_cast<int64_t>(c10::elementSize(dtype))}, device_.options().dtype(dtype));
    size_ += AlignedBytes(bytes);
    return view;
  }
  int64_t size() const { return size_; }

 private:
  std::byte* host_;
  const at::Tensor& device_;
  int64_t size_ = 0;
};

// The batch outlives the step, so the CPU reads it in place.
template <typename T>
at::Tensor View(const std::vector<T>& values, at::IntArrayRef shape, at::ScalarType dtype) {
  return at::from_blob(const_cast<T*>(values.data()), shape, at::TensorOptions().dtype(dtype));
}

}  // namespace

int64_t StepInputs::Bytes(const StepCapacity& capacity) {
  return IntegerBytes(capacity.max_tokens, capacity.max_rows) + int64_t{4} * capacity.max_rows * capacity.max_pages;
}

StepInputs::StepInputs(const StepCapacity& capacity, at::Device device) : capacity_(capacity), device_(device) {
  if (!device.is_cuda()) return;
  const int64_t bytes = IntegerBytes(capacity.max_tokens, capacity.max_rows);
  const auto pinned = at::TensorOptions().pinned_memory(true);
  for (Pinned& host : pinned_) {
    host.integers = at::empty({bytes}, pinned.dtype(at::kByte));
    host.page_table = at::empty({capacity.max_rows, capacity.max_pages}, pinned.dtype(at::kInt));
  }
  integers_ = at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device));
  page_table_ = at::zeros({capacity.max_rows, capacity.max_pages}, at::TensorOptions().dtype(at::kInt).device(device));
}

absl::StatusOr<StepTensors> StepInputs::Copy(const Batch& batch,
                                             const std::vector<kernels::SampleRowParams>& sample_rows) {
  token_context_ = batch.positions;
  for (int32_t& position : token_context_) ++position;
  sample_index_.clear();
  for (const SampleRow& row : batch.samples) sample_index_.push_back(row.token_index);
  for (const ScoredToken& token : batch.scored) sample_index_.push_back(token.token_index);
  if (!device_.is_cuda()) return InPlace(batch);

  if (batch.num_tokens() > capacity_.max_tokens || batch.num_rows > capacity_.max_rows ||
      batch.max_pages > capacity_.max_pages) {
    return absl::InternalError(absl::StrCat("a step of ", batch.num_tokens(), " tokens, ", batch.num_rows, " rows and ",
                                            batch.max_pages, " pages a row is larger than the runner was made for: ",
                                            capacity_.max_tokens, ", ", capacity_.max_rows, ", ", capacity_.max_pages));
  }
  const Pinned& host = pinned_[turn_];
  turn_ ^= 1;
  Packer packer(host.integers, integers_);
  StepTensors step;
  step.batch = &batch;
  step.sample_rows = packer.Add(sample_rows, at::kByte);
  step.slots = packer.Add(batch.slots, at::kLong);
  step.sample_index = packer.Add(sample_index_, at::kLong);
  step.token_ids = packer.Add(batch.token_ids, at::kInt);
  step.positions = packer.Add(batch.positions, at::kInt);
  step.token_context = packer.Add(token_context_, at::kInt);
  step.context_len = packer.Add(batch.context_len, at::kInt);
  step.num_select = packer.Add(batch.num_select, at::kInt);
  step.page_table = page_table_.narrow(0, 0, batch.num_rows);
  step.max_context = *std::max_element(batch.context_len.begin(), batch.context_len.end());

  const auto stream = c10::cuda::getCurrentCUDAStream(device_.index()).stream();
  C10_CUDA_CHECK(
      cudaMemcpyAsync(integers_.data_ptr(), host.integers.data_ptr(), packer.size(), cudaMemcpyHostToDevice, stream));
  // A row's tail past the batch's longest is unspecified to the kernels: it keeps what it held.
  const size_t row_bytes = sizeof(int32_t) * batch.max_pages;
  if (row_bytes > 0) {
    std::memcpy(host.page_table.data_ptr(), batch.page_table.data(), row_bytes * batch.num_rows);
    C10_CUDA_CHECK(cudaMemcpy2DAsync(page_table_.data_ptr(), sizeof(int32_t) * capacity_.max_pages,
                                     host.page_table.data_ptr(), row_bytes, row_bytes, batch.num_rows,
                                     cudaMemcpyHostToDevice, stream));
  }
  return step;
}

StepTensors StepInputs::InPlace(const Batch& batch) {
  const int64_t tokens = batch.num_tokens(), rows = batch.num_rows;
  StepTensors step;
  step.batch = &batch;
  step.token_ids = View(batch.token_ids, {tokens}, at::kInt);
  step.positions = View(batch.positions, {tokens}, at::kInt);
  step.slots = View(batch.slots, {tokens}, at::kLong);
  step.page_table = View(batch.page_table, {rows, batch.max_pages}, at::kInt);
  step.context_len = View(batch.context_len, {rows}, at::kInt);
  step.num_select = View(batch.num_select, {rows}, at::kInt);
  step.token_context = View(token_context_, {tokens}, at::kInt);
  step.sample_index = View(sample_index_, {static_cast<int64_t>(sample_index_.size())}, at::kLong);
  step.max_context = *std::max_element(batch.context_len.begin(), batch.context_len.end());
  return step;
}

}  // namespace spotlight::engine
