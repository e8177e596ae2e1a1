#include "training/data_parallel.h"

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/cuda/nccl.h>

#include <utility>

namespace spotlight::training {

namespace nccl = torch::cuda::nccl;

struct DataParallel::Nccl {
  std::vector<nccl::ncclComm_t> communicators;  // by rank; LibTorch's own. Empty until the first reduction
};

DataParallel::DataParallel(std::vector<at::Device> devices)
    : devices_(std::move(devices)), offered_(devices_.size()), nccl_is_up_(devices_.size()) {
  if (devices_.size() > 1 && devices_.front().is_cuda()) {
    nccl_ = std::make_unique<Nccl>();
  }
}

DataParallel::~DataParallel() = default;

// All at once and by one thread: were each worker to make its own, those that can would wait for ever for one that
// cannot.
void DataParallel::StartNccl() {
  const c10::OptionalDeviceGuard back_to_own(devices_.front());
  std::vector<at::Tensor> on_each;
  for (const at::Device device : devices_) on_each.push_back(at::empty({1}, at::TensorOptions().device(device)));
  nccl_->communicators = nccl::detail::get_communicators(on_each).vec();
}

bool DataParallel::Agree(bool go_on) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (failed_) return false;
  const int64_t round = round_;
  all_go_on_ = all_go_on_ && go_on;
  if (++num_arrived_ == num_workers()) {
    num_arrived_ = 0;
    agreed_ = std::exchange(all_go_on_, true);
    ++round_;
    changed_.notify_all();
  } else {
    changed_.wait(lock, [&] { return round_ != round || failed_; });
  }
  // A round that was complete holds, whoever has failed since; the next one needs this worker too.
  return round_ != round && agreed_;
}

void DataParallel::Fail() {
  const std::lock_guard<std::mutex> lock(mutex_);
  failed_ = true;
  changed_.notify_all();
}

void DataParallel::AllReduceMean(int32_t rank, std::vector<at::Tensor>& tensors) {
  if (num_workers() == 1) return;
  if (nccl_ == nullptr) {
    ReduceOnHost(rank, tensors);
  } else {
    ReduceByNccl(rank, tensors);
  }
}

void DataParallel::ReduceOnHost(int32_t rank, std::vector<at::Tensor>& tensors) {
  offered_[rank] = &tensors;
  if (!Agree(true)) throw OtherWorkerFailed();
  if (rank == 0) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      for (int32_t other = 1; other < num_workers(); ++other) tensors[i].add_((*offered_[other])[i]);
      tensors[i].div_(num_workers());
      for (int32_t other = 1; other < num_workers(); ++other) (*offered_[other])[i].copy_(tensors[i]);
    }
  }
  if (!Agree(true)) throw OtherWorkerFailed();
}

void DataParallel::ReduceByNccl(int32_t rank, std::vector<at::Tensor>& tensors) {
  // A collective operation that one worker never joins hangs the others' devices: none begins before all are here.
  if (!Agree(true)) throw OtherWorkerFailed();
  if (!nccl_is_up_[rank]) {
    if (rank == 0) StartNccl();
    if (!Agree(true)) throw OtherWorkerFailed();
    nccl_is_up_[rank] = true;
  }
  const nccl::ncclComm_t communicator = nccl_->communicators[rank];
  for (at::Tensor& tensor : tensors) tensor.div_(num_workers());
  const nccl::AutoNcclGroup one_launch;
  for (at::Tensor& tensor : tensors) {
    std::vector<at::Tensor> output = {tensor};
    nccl::all_reduce({tensor}, output, static_cast<int32_t>(nccl::ncclRedOp::Sum), {}, {communicator});
  }
}

}  // namespace spotlight::training
