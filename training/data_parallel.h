// The workers of a data-parallel run: threads of one process, each with a device of its own, that take a step together
// and average their gradients.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"

namespace spotlight::training {

// Leaves AllReduceMean, and so the step that called it, when another worker has failed. No std::exception: only who
// waits for it may catch it.
struct OtherWorkerFailed {};

// Thread-safe: every worker calls with its own rank. NCCL between GPUs; on the CPU the first worker adds up.
class DataParallel {
 public:
  explicit DataParallel(std::vector<at::Device> devices);
  ~DataParallel();
  DataParallel(const DataParallel&) = delete;
  DataParallel& operator=(const DataParallel&) = delete;

  int32_t num_workers() const { return static_cast<int32_t>(devices_.size()); }

  // Waits for all workers and says whether all of them want to go on; false at once when one has failed.
  bool Agree(bool go_on);
  // Replaces each tensor by its mean over the workers, which call with tensors of the same shapes in the same order.
  // Throws OtherWorkerFailed, or what LibTorch throws. On a GPU the work is queued on the current stream.
  void AllReduceMean(int32_t rank, std::vector<at::Tensor>& tensors);
  // Of a worker that will not come again: nobody waits for it any more.
  void Fail();

 private:
  struct Nccl;

  void ReduceOnHost(int32_t rank, std::vector<at::Tensor>& tensors);
  void StartNccl();
  void ReduceByNccl(int32_t rank, std::vector<at::Tensor>& tensors);

  const std::vector<at::Device> devices_;
  std::unique_ptr<Nccl> nccl_;
  std::vector<std::vector<at::Tensor>*> offered_;  // by rank; ReduceOnHost's
  std::vector<char> nccl_is_up_;                   // by rank, as far as that worker knows

  std::mutex mutex_;
  std::condition_variable changed_;
  int32_t num_arrived_ = 0;
  int64_t round_ = 0;
  bool all_go_on_ = true, agreed_ = true;  // of the round that gathers, and of the last one
  bool failed_ = false;
};

}  // namespace spotlight::training
