// Copies of contiguous bytes by the copy engine (sm_90): from global to shared memory, announced by an mbarrier; back,
// in groups of the thread that asks; into the L2. Callers have another way before sm_90.
#pragma once

#include <cstdint>

namespace spotlight::kernels::cuda {

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ inline void CopyAsync16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16;" ::"r"(SharedAddress(shared)), "l"(global)
               : "memory");
}
__device__ inline void CopyAsync8(void* shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(SharedAddress(shared)), "l"(global) : "memory");
}
// A line of 128 bytes, into the L1.
__device__ inline void PrefetchLine(const void* global) {
  asm volatile("prefetch.global.L1 [%0];" ::"l"(global));
}
__device__ inline void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until at most kPending of this thread's groups are under way.
template <int kPending>
__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#if __CUDA_ARCH__ >= 900
__device__ inline void InitBarrier(uint64_t* barrier) {
  asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(SharedAddress(barrier)) : "memory");
}
// Of `arrivals` arrivals.
__device__ inline void InitBarrier(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(arrivals) : "memory");
}
__device__ inline void Arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}
__device__ inline void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// What ordinary stores left in shared memory may be overwritten by bulk copies after this.
__device__ inline void FenceForBulkCopies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// Of one thread: the phase ends when `bytes` have arrived.
__device__ inline void ExpectBytes(uint64_t* barrier, int32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(bytes)
               : "memory");
}
__device__ inline void BulkCopy(void* shared, const void* global, int32_t bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   SharedAddress(shared)),
               "l"(global), "r"(bytes), "r"(SharedAddress(barrier))
               : "memory");
}
// Into the L2 only: a hint.
__device__ inline void BulkPrefetch(const void* global, int32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes) : "memory");
}
__device__ inline void BulkStore(void* global, const void* shared, int32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global), "r"(SharedAddress(shared)),
               "r"(bytes)
               : "memory");
}
// Adds int32 to int32.
__device__ inline void BulkAdd(int32_t* global, const int32_t* shared, int32_t bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%0], [%1], %2;" ::"l"(global),
               "r"(SharedAddress(shared)), "r"(bytes)
               : "memory");
}
__device__ inline void CommitBulkStores() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until everything this thread committed has been read.
__device__ inline void WaitForBulkReads() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
// Until it is in global memory.
__device__ inline void WaitForBulkStores() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
__device__ inline void WaitForPhase(uint64_t* barrier, uint32_t parity) {
  uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{\n .reg .pred done;\n mbarrier.try_wait.parity.shared.b64 done, [%1], %2;\n selp.b32 %0, 1, 0, done;\n}"
        : "=r"(done)
        : "r"(SharedAddress(barrier)), "r"(parity)
        : "memory");
  }
}
#endif

}  // namespace spotlight::kernels::cuda
