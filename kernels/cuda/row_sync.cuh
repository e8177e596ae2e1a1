// Barriers among the blocks that share one (row, KV head): counters in global memory, zero between launches.
#pragma once

#include <cstdint>

namespace spotlight::kernels::cuda {

// What the thread wrote before, or saw written, is visible to whoever waits for the count.
__device__ inline void ArriveThread(uint32_t* counter, uint32_t count) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(count) : "memory");
}

// Returns, to every lane of the warp, when `count` has arrived. All blocks of the grid must be resident.
__device__ inline void WaitWarp(const uint32_t* counter, uint32_t count) {
  if (threadIdx.x % 32 == 0) {
    uint32_t arrived;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(counter) : "memory");
    } while (arrived < count);
  }
  __syncwarp();
}

// The same to every thread of the block.
__device__ inline void WaitBlock(const uint32_t* counter, uint32_t count) {
  if (threadIdx.x < 32) WaitWarp(counter, count);
  __syncthreads();
}

}  // namespace spotlight::kernels::cuda
