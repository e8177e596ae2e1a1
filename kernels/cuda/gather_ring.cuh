// A warp's tiles of scattered tokens on their way to shared memory: a bulk copy for each token's K and V (sm_90), or
// the lanes' asynchronous copies.
#pragma once

#include <cstdint>

#include <type_traits>

#include "kernels/cuda/attend_tile.cuh"
#include "kernels/cuda/bulk_copy.cuh"
#include "kernels/cuda/e4m3.cuh"

namespace spotlight::kernels::cuda {

inline constexpr int kGatherSlots = 3;

// A slot holds 16 tokens as 4 groups of 4, a group 32 bytes further than the last one ends; row m of the tile is token
// Token(m): what 8 lanes read together lies in different banks. The scales of tokens in e4m3 follow, by asynchronous
// copies of 8 bytes everywhere.
// A slot has at least kMinSlotBytes, a multiple of 16.
template <class T, int kDim, int kMinSlotBytes>
class GatherRing {
  static constexpr int kTokenBytes = 2 * kDim * static_cast<int>(sizeof(T));
  static constexpr int kGroupTokens = 4, kGroupStride = kGroupTokens * kTokenBytes + 32;
  static constexpr int kScaleOffset = 4 * kGroupStride;
  static constexpr int kTileBytes = kScaleOffset + (kIsE4m3<T> ? kTileTokens * 8 : 0);

 public:
  static constexpr int kSlotBytes = kTileBytes < kMinSlotBytes ? kMinSlotBytes : kTileBytes;

  // memory: bytes >= kSlotBytes of this warp, 16-byte aligned. barriers [kGatherSlots]: initialised; *phases: zero at
  // first, then kept from ring to ring. All tiles of the ring before have been popped.
  __device__ GatherRing(char* memory, int32_t bytes, uint64_t* barriers, uint32_t* phases)
      : memory_(memory), num_slots_(min(kGatherSlots, bytes / kSlotBytes)), barriers_(barriers), phases_(phases) {}

  __device__ int size() const { return size_; }
  __device__ bool full() const { return size_ == num_slots_; }
  // Where the next tile goes: until then, anyone's. Not when full.
  __device__ char* FreeSlot() const { return memory_ + next_ * kSlotBytes; }

  // Begins to fetch a tile of `count` tokens of the pages' kv and kv_scale; entry(i): token i's place in arrays
  // [pages, Hkv, P, ...], asked by lane i. Not when full.
  template <class Entry>
  __device__ void Push(const T* kv, const float* kv_scale, const Entry& entry, int count) {
    const int lane = threadIdx.x % 32;
    char* slot = memory_ + next_ * kSlotBytes;
    const int64_t place = entry(lane < count ? lane : 0);
    const T* from = kv + place * (2 * kDim);
    __syncwarp();  // all lanes have read what the slot held
    if constexpr (kIsE4m3<T>) {
      if (lane < count) CopyAsync8(slot + kScaleOffset + lane * 8, kv_scale + place * 2);
    }
#if __CUDA_ARCH__ >= 900
    uint64_t* const barrier = barriers_ + next_;
    if (lane == 0) ExpectBytes(barrier, count * kTokenBytes);
    __syncwarp();
    if (lane < count) BulkCopy(PlaceOf(slot, lane), from, kTokenBytes, barrier);
    if constexpr (kIsE4m3<T>) CommitCopies();
#else
#pragma unroll 4
    for (int i = 0; i < count; ++i) {
      const auto token = __shfl_sync(~0u, reinterpret_cast<unsigned long long>(from), i);
      if (lane * 16 < kTokenBytes) {
        CopyAsync16(PlaceOf(slot, i) + lane * 16, reinterpret_cast<const char*>(token) + lane * 16);
      }
    }
    CommitCopies();
#endif
    next_ = next_ + 1 == num_slots_ ? 0 : next_ + 1;
    counts_ = counts_ << 8 | count;
    ++size_;
  }

  // Adds the oldest tile to what `warp` has attended to. Not when empty.
  template <int kHeadTiles>
  __device__ void Pop(AttendWarp<T, kDim, kHeadTiles>* warp) {
    using Warp = AttendWarp<T, kDim, kHeadTiles>;
    --size_;
#if __CUDA_ARCH__ >= 900
    WaitForPhase(barriers_ + oldest_, *phases_ >> oldest_ & 1);
    *phases_ ^= 1u << oldest_;
    if constexpr (kIsE4m3<T>) WaitForOldestCopies();
#else
    WaitForOldestCopies();
#endif
    const int count = static_cast<int>(counts_ >> 8 * size_ & 0xff);
    char* slot = memory_ + oldest_ * kSlotBytes;
    const auto read = [](const T* chunk, auto* value) {
      *value = *reinterpret_cast<std::add_const_t<std::remove_reference_t<decltype(*value)>>*>(chunk);
    };
    // Row 0 is token 0, which is always there; what an absent token's place holds need not be finite.
    const auto row = [&](int m) { return reinterpret_cast<const T*>(PlaceOf(slot, Token(m) < count ? Token(m) : 0)); };
    typename Warp::Tile tile;
    Warp::VisitKeys(row, &tile, read);
    if constexpr (kIsE4m3<T>) {
      const auto* const scales = reinterpret_cast<const float2*>(slot + kScaleOffset);
      Warp::VisitScales([&](int m) { return scales[Token(m) < count ? Token(m) : 0]; }, &tile);
    }
    const int own = Token(static_cast<int>(threadIdx.x % kTileTokens));
    const uint32_t present = __ballot_sync(~0u, own < count);
    const typename Warp::Weights weights = warp->Score(tile, present);
    Warp::VisitValues(row, &tile, read);
    warp->AddValues(tile, weights);
    oldest_ = oldest_ + 1 == num_slots_ ? 0 : oldest_ + 1;
  }

 private:
  // The asynchronous copies of the tile that was just taken off, size_ more being under way.
  __device__ void WaitForOldestCopies() const {
    if (size_ == 2) {
      WaitForCopies<2>();
    } else if (size_ == 1) {
      WaitForCopies<1>();
    } else {
      WaitForCopies<0>();
    }
    __syncwarp();
  }
  __device__ static int Token(int m) {
    const int c = m % 8 / 2, odd = m % 2;
    return (c + 2 * odd) % 4 * kGroupTokens + odd + m / 8 * 2;
  }
  __device__ static char* PlaceOf(char* slot, int token) {
    return slot + token * kTokenBytes + token / kGroupTokens * 32;
  }

  char* const memory_;
  const int num_slots_;
  uint64_t* const barriers_;
  uint32_t* const phases_;
  int next_ = 0, oldest_ = 0, size_ = 0;
  uint32_t counts_ = 0;  // of the tiles under way, the newest lowest
};

// fp32 is not tuned: a slot only remembers where the tokens are.
template <int kDim, int kMinSlotBytes>
class GatherRing<float, kDim, kMinSlotBytes> {
 public:
  static constexpr int kSlotBytes = kMinSlotBytes;

  __device__ GatherRing(char* memory, int32_t, uint64_t*, uint32_t*)
      : token_(reinterpret_cast<const float**>(memory) + threadIdx.x % 32) {}

  __device__ int size() const { return size_; }
  __device__ bool full() const { return size_ == 1; }
  __device__ char* FreeSlot() const { return reinterpret_cast<char*>(token_ - threadIdx.x % 32); }

  template <class Entry>
  __device__ void Push(const float* kv, const float*, const Entry& entry, int count) {
    const int lane = threadIdx.x % 32;
    *token_ = kv + entry(lane < count ? lane : 0) * (2 * kDim);
    count_ = count;
    size_ = 1;
  }

  template <int kHeadTiles>
  __device__ void Pop(AttendWarp<float, kDim, kHeadTiles>* warp) {
    using Warp = AttendWarp<float, kDim, kHeadTiles>;
    size_ = 0;
    for (int i = 0; i < count_; ++i) {
      const auto token = __shfl_sync(~0u, reinterpret_cast<unsigned long long>(*token_), i);
      typename Warp::Tile tile;
      tile.token = reinterpret_cast<const float*>(token);
      warp->Accumulate(tile, 1);
    }
  }

 private:
  const float** const token_;
  int size_ = 0, count_ = 0;
};

}  // namespace spotlight::kernels::cuda
