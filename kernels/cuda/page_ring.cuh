// A block's ring of tiles of cached tokens in shared memory, read by all of its warps with ldmatrix and no bank
// conflicts. On sm_90 bulk copies fill a slot, and the warp that is the last to leave it has it filled again; before,
// asynchronous copies of every thread do, a barrier of the block a tile.
//
// A slot holds kTokens tokens as 8 groups of consecutive ones, each group 16 bytes further than the last one ends. The
// 8 rows of a matrix are one token of every group: matrix j's row i is token i * kTokens / 8 + j of the tile.
#pragma once

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/layout.h"

namespace spotlight::kernels::cuda {

// Tokens of one KV head of one sequence.
struct PagedTokens {
  const char* kv;  // of the KV head, in page 0
  const int32_t* page_table;
  int64_t page_bytes;  // from one page to the next
  int32_t context_len;
};

template <int kTokenBytes, int kTokens, int kWarps>
class PageRing {
 public:
  static constexpr int kGroups = 8, kGroupTokens = kTokens / kGroups;
  static constexpr int kGroupBytes = kGroupTokens * kTokenBytes + 16, kSlotBytes = kGroups * kGroupBytes;
  static constexpr int kSlots = 2;
  static_assert(kTokens % kGroups == 0 && kPageTokens % kTokens == 0);

  struct Signals {
    uint64_t full[kSlots], free[kSlots];
    int left[kSlots];  // warps that have left the slot, since it was first filled
  };

  // Tiles [first, end) of the tokens; memory: kSlots slots, 16-byte aligned. All threads of the block.
  __device__ PageRing(char* memory, Signals* signals, const PagedTokens& tokens, int32_t first, int32_t end)
      : memory_(memory), signals_(signals), tokens_(tokens), first_(first), end_(end) {
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
      for (int slot = 0; slot < kSlots; ++slot) {
        InitBarrier(&signals_->full[slot]);
        InitBarrier(&signals_->free[slot], kWarps);
        signals_->left[slot] = 0;
      }
      FenceBarrierInit();
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      for (int i = 0; i < kSlots; ++i) Fill(first_ + i);
    }
#else
    for (int i = 0; i < kSlots - 1; ++i) Fill(first_ + i);
#endif
  }

  // The slot of `tile`, once it is there. Every tile in its order, all threads.
  __device__ const char* Wait(int32_t tile) {
    const int turn = tile - first_;
#if __CUDA_ARCH__ >= 900
    WaitForPhase(&signals_->full[turn % kSlots], turn / kSlots % 2);
#else
    WaitForCopies<kSlots - 2>();
    __syncthreads();
    Fill(tile + kSlots - 1);  // the slot that all have just left
#endif
    return memory_ + turn % kSlots * kSlotBytes;
  }

  // The warp has read the slot of `tile`.
  __device__ void Leave(int32_t tile) {
#if __CUDA_ARCH__ >= 900
    if (tile + kSlots >= end_) return;
    __syncwarp();
    const int turn = tile - first_, slot = turn % kSlots;
    int last = 0;
    if (threadIdx.x % 32 == 0) {
      Arrive(&signals_->free[slot]);
      last = atomicAdd(&signals_->left[slot], 1) % kWarps == kWarps - 1;
    }
    if (__shfl_sync(~0u, last, 0) != 0) {
      WaitForPhase(&signals_->free[slot], turn / kSlots % 2);  // over: all have arrived
      Fill(tile + kSlots);
    }
#endif
  }

  // Zeros in place of what `tile` has no token for. All threads of the block, between Wait and the first read.
  __device__ void ClearAbsent(int32_t tile) {
    const int count = CountOf(tile);
    if (count == kTokens) return;
    char* const slot = memory_ + (tile - first_) % kSlots * kSlotBytes;
    constexpr int kChunks = kTokenBytes / 16;
    for (int i = count * kChunks + threadIdx.x; i < kTokens * kChunks; i += 32 * kWarps) {
      *reinterpret_cast<uint4*>(slot + Offset(i / kChunks) + i % kChunks * 16) = make_uint4(0, 0, 0, 0);
    }
    __syncthreads();
  }

  __device__ static int Offset(int token) {
    return token / kGroupTokens * kGroupBytes + token % kGroupTokens * kTokenBytes;
  }

 private:
  __device__ int CountOf(int32_t tile) const {
    return min(kTokens, tokens_.context_len - tile * kTokens);
  }

  __device__ void Fill(int32_t tile) {
    if (tile < end_) {
      const int32_t token = tile * kTokens;
      const int count = CountOf(tile);
      const char* const from =
          tokens_.kv + tokens_.page_table[token / kPageTokens] * tokens_.page_bytes + token % kPageTokens * kTokenBytes;
      const int index = (tile - first_) % kSlots;
      char* const slot = memory_ + index * kSlotBytes;
#if __CUDA_ARCH__ >= 900
      const int lane = threadIdx.x % 32, first = lane * kGroupTokens;
      if (lane == 0) ExpectBytes(&signals_->full[index], count * kTokenBytes);
      __syncwarp();
      if (lane < kGroups && first < count) {
        BulkCopy(slot + lane * kGroupBytes, from + first * kTokenBytes, min(kGroupTokens, count - first) * kTokenBytes,
                 &signals_->full[index]);
      }
#else
      constexpr int kChunks = kTokenBytes / 16;
      for (int i = threadIdx.x; i < count * kChunks; i += 32 * kWarps) {
        CopyAsync16(slot + Offset(i / kChunks) + i % kChunks * 16, from + i * 16);
      }
#endif
    }
#if __CUDA_ARCH__ < 900
    CommitCopies();
#endif
  }

  char* const memory_;
  Signals* const signals_;
  const PagedTokens tokens_;
  const int32_t first_, end_;
};

}  // namespace spotlight::kernels::cuda
