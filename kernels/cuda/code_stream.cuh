// Codes of a unit's pages on their way to shared memory, ahead of their use, by one warp for itself.
#pragma once

#include <cstdint>

#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/score_tile.cuh"
#include "kernels/layout.h"

namespace spotlight::kernels::cuda {

// A ring of kStages parts of up to 32 pages each. Every lane must call everything.
template <int kWords>
class CodeStream {
  static constexpr int kPageBytes = kWords * 4 * kPageTokens;

 public:
  static constexpr int kStages = 2;

  // codes [pages, Hkv, P, kWords]. ring: 16-byte aligned shared memory of ring_bytes, at least kStages pages. barriers
  // [kStages]: initialised, this stream's alone.
  __device__ CodeStream(const uint32_t* codes, int32_t num_heads, char* ring, int ring_bytes, uint64_t* barriers)
      : codes_(reinterpret_cast<const char*>(codes)),
        num_heads_(num_heads),
        ring_(ring),
        barriers_(barriers),
        part_pages_(max(1, min(32, ring_bytes / kStages / kPageBytes))) {}

  // Of the next pages: pages[i * stride] is page i of num_pages; where resident is not null, they are also written
  // there.
  __device__ void Begin(int32_t head, const int32_t* pages, int32_t stride, int32_t num_pages, int32_t* resident) {
    head_ = head;
    pages_ = pages;
    stride_ = stride;
    num_pages_ = num_pages;
    filled_ = 0;
    if (resident != nullptr) {  // all on their way at once
#pragma unroll 2
      for (int32_t i = threadIdx.x % 32; i < num_pages; i += 32) resident[i] = pages[int64_t{i} * stride];
      pages_ = resident;
      stride_ = 1;
      __syncwarp();
    }
#pragma unroll 1
    for (int part = 0; part < kStages; ++part) Fill(part);
  }

  __device__ int32_t pages_per_part() const {
    return part_pages_;
  }
  // The codes of pages [i, i + pages_per_part()), i counting parts in turn. Once for each fill of at least a page.
  __device__ const Code<kWords>* Wait(int part) {
#if __CUDA_ARCH__ >= 900
    WaitForPhase(barriers_ + part, phases_ >> part & 1);
    phases_ ^= 1u << part;
#else
    WaitForCopies<kStages - 1>();
    __syncwarp();
#endif
    return reinterpret_cast<const Code<kWords>*>(ring_ + part * part_pages_ * kPageBytes);
  }
  // Everyone has read the part: the next pages may overwrite it.
  __device__ void Fill(int part) {
    __syncwarp();
    const int lane = threadIdx.x % 32;
    const int32_t count = min(part_pages_, num_pages_ - filled_);
    if (count > 0) {
      const int32_t page = lane < count ? pages_[int64_t{filled_ + lane} * stride_] : 0;
      char* out = ring_ + part * part_pages_ * kPageBytes;
#if __CUDA_ARCH__ >= 900
      if (lane == 0) ExpectBytes(barriers_ + part, count * kPageBytes);
      __syncwarp();
      if (lane < count) BulkCopy(out + lane * kPageBytes, SourceOf(page), kPageBytes, barriers_ + part);
#else
#pragma unroll 1
      for (int i = 0; i < count; ++i) {
        const char* from = SourceOf(__shfl_sync(~0u, page, i));
        for (int byte = lane * 16; byte < kPageBytes; byte += 512)
          CopyAsync16(out + i * kPageBytes + byte, from + byte);
      }
#endif
      filled_ += count;
    }
#if __CUDA_ARCH__ < 900
    CommitCopies();
#endif
  }

 private:
  __device__ const char* SourceOf(int32_t page) const {
    return codes_ + (int64_t{page} * num_heads_ + head_) * kPageBytes;
  }

  const char* const codes_;
  const int32_t num_heads_;
  char* const ring_;
  uint64_t* const barriers_;
  const int part_pages_;
  uint32_t phases_ = 0;
  int32_t head_ = 0;
  const int32_t* pages_ = nullptr;
  int32_t stride_ = 0, num_pages_ = 0, filled_ = 0;
};

}  // namespace spotlight::kernels::cuda
