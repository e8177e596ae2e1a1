// Where an operation runs: the device, the CUDA stream, and the CPU's threads.
#pragma once

#include <cstdint>
#include <functional>

#include "kernels/layout.h"

namespace spotlight::kernels {

// Calls body(begin, end) for disjoint ranges that cover [0, n), perhaps on several threads, and returns when all are
// done. The engine passes one built on at::parallel_for, so that there is one pool of threads.
using ParallelFor = std::function<void(int64_t n, const std::function<void(int64_t begin, int64_t end)>& body)>;

struct Execution {
  DeviceKind device = DeviceKind::kCpu;
  void* stream = nullptr;                     // cudaStream_t; CUDA only
  const ParallelFor* parallel_for = nullptr;  // CPU only; null runs on the calling thread
};

}  // namespace spotlight::kernels
