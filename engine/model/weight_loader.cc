#include "engine/model/weight_loader.h"

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

namespace spotlight::engine {

// Two pinned buffers that take turns. Not from LibTorch's allocator, which would keep them.
class WeightLoader::Staging {
 public:
  explicit Staging(int64_t bytes) {
    for (Buffer& buffer : buffers_) {
      C10_CUDA_CHECK(cudaHostAlloc(&buffer.data, static_cast<size_t>(bytes), cudaHostAllocDefault));
      C10_CUDA_CHECK(cudaEventCreateWithFlags(&buffer.copied, cudaEventDisableTiming));
    }
  }

  // The buffer whose turn it is, once its last copy is done.
  void* Next() {
    turn_ ^= 1;
    C10_CUDA_CHECK(cudaEventSynchronize(buffers_[turn_].copied));
    return buffers_[turn_].data;
  }
  void CopyTo(void* device, int64_t bytes, cudaStream_t stream) {
    const Buffer& buffer = buffers_[turn_];
    C10_CUDA_CHECK(cudaMemcpyAsync(device, buffer.data, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream));
    C10_CUDA_CHECK(cudaEventRecord(buffer.copied, stream));
  }

 private:
  struct Buffer {
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() {  // errors are seen by whoever waits for the copies
      if (copied != nullptr) {
        cudaEventSynchronize(copied);
        cudaEventDestroy(copied);
      }
      if (data != nullptr) cudaFreeHost(data);
    }
    void* data = nullptr;
    cudaEvent_t copied = nullptr;
  };
  std::array<Buffer, 2> buffers_;
  int turn_ = 0;
};

WeightLoader::WeightLoader(TensorSource* source, at::ScalarType dtype, at::Device device, int64_t total_bytes,
                           LoadProgress progress, int64_t piece_bytes)
    : source_(source),
      dtype_(dtype),
      device_(device),
      total_bytes_(total_bytes),
      // An element has to fit.
      piece_bytes_(std::max<int64_t>(std::min(piece_bytes, total_bytes), sizeof(float))),
      progress_(std::move(progress)) {}

WeightLoader::~WeightLoader() = default;

at::Tensor WeightLoader::Empty(const std::vector<int64_t>& shape) const {
  return at::empty(shape, at::TensorOptions().dtype(dtype_).device(device_));
}

absl::StatusOr<at::Tensor> WeightLoader::Load(const std::string& name, const std::vector<int64_t>& shape) {
  at::Tensor tensor = Empty(shape);
  if (auto status = LoadInto(name, tensor); !status.ok()) return status;
  return tensor;
}

absl::Status WeightLoader::LoadInto(const std::string& name, const at::Tensor& out) {
  auto tensor = source_->Find(name, out.sizes().vec(), dtype_);
  if (!tensor.ok()) return tensor.status();
  const at::Tensor flat = out.view({-1});
  const auto element_bytes = static_cast<int64_t>(c10::elementSize(tensor->dtype));
  const int64_t piece = piece_bytes_ / element_bytes;
  for (int64_t begin = 0; begin < tensor->num_elements; begin += piece) {
    const int64_t end = std::min(begin + piece, tensor->num_elements);
    LoadPiece(*tensor, begin, end, flat.narrow(0, begin, end - begin));
    done_bytes_ += (end - begin) * element_bytes;
    if (progress_ != nullptr) progress_(done_bytes_, total_bytes_);
  }
  return absl::OkStatus();
}

void WeightLoader::LoadPiece(const StoredTensor& tensor, int64_t begin, int64_t end, const at::Tensor& slice) {
  const bool converts = tensor.dtype != dtype_;
  if (converts && !buffer_.defined()) buffer_ = at::empty({piece_bytes_}, slice.options().dtype(at::kByte));
  const int64_t bytes = (end - begin) * static_cast<int64_t>(c10::elementSize(tensor.dtype));
  const at::Tensor target = converts ? buffer_.narrow(0, 0, bytes).view(tensor.dtype) : slice;
  if (device_.is_cuda()) {
    const c10::cuda::CUDAGuard on_device(device_);  // events are the current device's
    if (staging_ == nullptr) staging_ = std::make_unique<Staging>(piece_bytes_);
    source_->Read(tensor, begin, end, staging_->Next());
    staging_->CopyTo(target.data_ptr(), bytes, c10::cuda::getCurrentCUDAStream(device_.index()));
  } else {
    source_->Read(tensor, begin, end, target.data_ptr());
  }
  if (converts) slice.copy_(target);
}

void WeightLoader::Finish() {
  if (device_.is_cuda()) c10::cuda::getCurrentCUDAStream(device_.index()).synchronize();
  staging_.reset();
  buffer_.reset();
}

}  // namespace spotlight::engine
