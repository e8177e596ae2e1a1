// The device's clock.
#pragma once

#include <cstdint>

namespace spotlight::kernels::cuda {

// The same on all multiprocessors. Some devices advance it a microsecond at a time.
__device__ inline uint64_t Nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

}  // namespace spotlight::kernels::cuda
