// Times of operations on the device: cold L2, medians, the host's launch latency hidden.
//
// A sample: 256 MB are overwritten and 256 MB of others read, which leaves nothing of the operation's data in the L2
// and few lines that must be written back, as a layer's weights leave it; a kernel spins until the host has enqueued
// everything; then an event, the operation, an event. A sample whose first event passed before the
// last enqueue is thrown away and taken again with a longer spin. Operations that are measured together take turns,
// sample by sample, so that a drift of the clocks meets all of them alike.
#pragma once

#include <ATen/ATen.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "benchmarks/kernels/timing.h"

namespace spotlight::benchmarks {

// Enqueues one operation on LibTorch's current stream. Must be capturable in a CUDA graph.
using Operation = std::function<void()>;

class ColdTimer {
 public:
  // On LibTorch's current stream, which must not be the default one (graphs are captured there).
  explicit ColdTimer(int num_samples);
  ~ColdTimer();
  ColdTimer(const ColdTimer&) = delete;
  ColdTimer& operator=(const ColdTimer&) = delete;

  // Medians, one for each operation. Each runs twice beforehand, unmeasured.
  std::vector<Timing> Measure(const std::vector<Operation>& operations);

 private:
  double SampleUs(const Operation& enqueue);

  const int num_samples_;
  int64_t spin_ns_ = 50'000;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  at::Tensor flush_, sink_;  // written and read halves; a word
};

}  // namespace spotlight::benchmarks
