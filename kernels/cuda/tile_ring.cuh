// A warp's own ring of tiles in shared memory, on their way from contiguous global memory: many more bytes in flight
// than registers hold, with no barrier between warps. On sm_90 four bulk copies fill a slot and an mbarrier says when;
// before, the lanes' asynchronous copies do.
//
// A slot holds 16 tokens as 4 groups of 4, a group 32 bytes further than the last one ends; row m of the tile
// (attend_tile.cuh) is token Token(m). So whatever 8 lanes read together, keys or values, lies in different banks. The
// scales of tokens in e4m3 follow them.
#pragma once

#include <type_traits>

#include "kernels/cuda/attend_tile.cuh"
#include "kernels/cuda/e4m3.cuh"

namespace spotlight::kernels::cuda {

template <class T, int kDim>
class TileRing {
  static constexpr int kTokenBytes = 2 * kDim * static_cast<int>(sizeof(T));
  static constexpr int kGroupTokens = 4, kGroupStride = kGroupTokens * kTokenBytes + 32;
  static constexpr int kScaleOffset = 4 * kGroupStride;
  static constexpr int kBarrierOffset = kScaleOffset + (kIsE4m3<T> ? kTileTokens * 8 : 0);

 public:
  static constexpr int kMaxSlots = kIsE4m3<T> ? 6 : 3;
  static constexpr int kSlotBytes = kBarrierOffset + 16;

  // memory: num_slots <= kMaxSlots slots of this warp, 16-byte aligned.
  __device__ TileRing(char* memory, int num_slots) : memory_(memory), num_slots_(num_slots) {
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x % 32 == 0) {
#pragma unroll 1
      for (int slot = 0; slot < num_slots; ++slot) {
        asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(Barrier(slot)) : "memory");
      }
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
#endif
  }

  // Begins to fill the next slot with tokens [0, count), and their scales where they have some; count = 0: nothing.
  // Every slot that is taken is filled again, so that there are always num_slots fills on their way or done.
  __device__ void Fill(const T* tokens, const float2* scales, int count) {
    const char* from = reinterpret_cast<const char*>(tokens);
    const uint32_t slot = SharedAddress(memory_ + fill_slot_ * kSlotBytes);
    const int lane = threadIdx.x % 32;
    __syncwarp();  // all lanes have taken what the slot held
#if __CUDA_ARCH__ >= 900
    if (count > 0) {
      const uint32_t barrier = Barrier(fill_slot_);
      if (lane == 0) {
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier),
                     "r"(count * kTokenBytes + (kIsE4m3<T> ? ScaleBytes(count) : 0))
                     : "memory");
      }
      __syncwarp();
      if (kIsE4m3<T> && lane == 4) {
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                         slot + kScaleOffset),
                     "l"(scales), "r"(ScaleBytes(count)), "r"(barrier)
                     : "memory");
      }
      const int first = lane * kGroupTokens, bytes = min(kGroupTokens, count - first) * kTokenBytes;
      if (lane < 4 && bytes > 0) {
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                         slot + lane * kGroupStride),
                     "l"(from + first * kTokenBytes), "r"(bytes), "r"(barrier)
                     : "memory");
      }
    }
#else
    for (int offset = lane * 16; offset < count * kTokenBytes; offset += 32 * 16) {
      const uint32_t to = slot + offset + offset / (kGroupTokens * kTokenBytes) * 32;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from + offset) : "memory");
    }
    if (kIsE4m3<T> && lane < count) {
      asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(slot + kScaleOffset + lane * 8), "l"(scales + lane)
                   : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
    if (count > 0) fill_slot_ = fill_slot_ + 1 == num_slots_ ? 0 : fill_slot_ + 1;
  }

  // Adds the oldest filled slot's `count` tokens to what `warp` has attended to, and calls refill() as soon as the slot
  // is free.
  template <int kHeadTiles, class Refill>
  __device__ void Take(int count, AttendWarp<T, kDim, kHeadTiles>* warp, const Refill& refill) {
    using Warp = AttendWarp<T, kDim, kHeadTiles>;
    const auto copy = [](const T* chunk, auto* value) {
      *value = *reinterpret_cast<std::add_const_t<std::remove_reference_t<decltype(*value)>>*>(chunk);
    };
    const char* slot = memory_ + take_slot_ * kSlotBytes;
    const auto row = [slot](int m) {
      return reinterpret_cast<const T*>(slot + Token(m) * kTokenBytes + Token(m) / kGroupTokens * 32);
    };
    WaitOldest();
    typename Warp::Tile tile;
    Warp::VisitKeys(row, &tile, copy);
    const uint32_t present = __ballot_sync(~0u, Token(threadIdx.x % kTileTokens) < count);
    // Row 0 is token 0, always there: what an absent token's place holds need not be finite.
    if constexpr (kIsE4m3<T>) {
      const auto* const scales = reinterpret_cast<const float2*>(slot + kScaleOffset);
      Warp::VisitScales([&](int m) { return scales[Token(m) < count ? Token(m) : 0]; }, &tile);
    }
    const typename Warp::Weights weights = warp->Score(tile, present);
    const auto present_row = [&](int m) { return row(Token(m) < count ? m : 0); };
    Warp::VisitValues(present_row, &tile, copy);
    take_slot_ = take_slot_ + 1 == num_slots_ ? 0 : take_slot_ + 1;
    phase_ ^= take_slot_ == 0;
    refill();
    warp->AddValues(tile, weights);
  }

 private:
  // Bulk copies are of multiples of 16 bytes: perhaps a scale more than asked for, of the same page.
  __device__ static int ScaleBytes(int count) {
    return (count + 1) / 2 * 16;
  }
  // Of the 8 lanes that read together, keys: rows 2i, 2i + 1; values: rows 2c + k, all c: in groups of different banks.
  __device__ static int Token(int m) {
    const int c = m % 8 / 2, odd = m % 2;
    return (c + 2 * odd) % 4 * kGroupTokens + odd + m / 8 * 2;
  }
  __device__ static uint32_t SharedAddress(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
  }
  __device__ uint32_t Barrier(int slot) const {
    return SharedAddress(memory_ + slot * kSlotBytes + kBarrierOffset);
  }

  __device__ void WaitOldest() const {
#if __CUDA_ARCH__ >= 900
    uint32_t done = 0;
    while (done == 0) {
      asm volatile(
          "{\n .reg .pred done;\n mbarrier.try_wait.parity.shared.b64 done, [%1], %2;\n selp.b32 %0, 1, 0, done;\n}"
          : "=r"(done)
          : "r"(Barrier(take_slot_)), "r"(phase_)
          : "memory");
    }
#else
    static_assert(kMaxSlots <= 6);
    if (num_slots_ >= 4) {
      if (num_slots_ == 6) {
        asm volatile("cp.async.wait_group 5;" ::: "memory");
      } else if (num_slots_ == 5) {
        asm volatile("cp.async.wait_group 4;" ::: "memory");
      } else {
        asm volatile("cp.async.wait_group 3;" ::: "memory");
      }
    } else if (num_slots_ == 3) {
      asm volatile("cp.async.wait_group 2;" ::: "memory");
    } else if (num_slots_ == 2) {
      asm volatile("cp.async.wait_group 1;" ::: "memory");
    } else {
      asm volatile("cp.async.wait_group 0;" ::: "memory");
    }
    __syncwarp();
#endif
  }

  char* const memory_;
  const int num_slots_;
  int fill_slot_ = 0, take_slot_ = 0;
  uint32_t phase_ = 0;  // of take_slot_'s mbarrier
};

// fp32 is not tuned: a slot only remembers where the tokens are.
template <int kDim>
class TileRing<float, kDim> {
 public:
  static constexpr int kMaxSlots = 3;
  static constexpr int kSlotBytes = 16;

  __device__ TileRing(char* memory, int num_slots)
      : slots_(reinterpret_cast<const float**>(memory)), num_slots_(num_slots) {}

  __device__ void Fill(const float* tokens, const float2*, int count) {
    __syncwarp();
    if (count == 0) return;
    if (threadIdx.x % 32 == 0) slots_[fill_slot_] = tokens;
    __syncwarp();
    fill_slot_ = fill_slot_ + 1 == num_slots_ ? 0 : fill_slot_ + 1;
  }

  template <int kHeadTiles, class Refill>
  __device__ void Take(int count, AttendWarp<float, kDim, kHeadTiles>* warp, const Refill& refill) {
    const float* tokens = slots_[take_slot_];
    take_slot_ = take_slot_ + 1 == num_slots_ ? 0 : take_slot_ + 1;
    refill();
    typename AttendWarp<float, kDim, kHeadTiles>::Tile tile;
    AttendWarp<float, kDim, kHeadTiles>::Load([=](int i) { return tokens + i * 2 * kDim; }, count, &tile);
    warp->Accumulate(tile, count);
  }

 private:
  const float** const slots_;
  const int num_slots_;
  int fill_slot_ = 0, take_slot_ = 0;
};

}  // namespace spotlight::kernels::cuda
