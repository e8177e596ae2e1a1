// What attention's tiles are made of: base-2 exponentials, loads of what is read once, tensor core products of bf16 and
// fp16.
#pragma once

#include <cstdint>

#include "kernels/cuda/numeric.cuh"

namespace spotlight::kernels::cuda {

inline constexpr int kTileTokens = 16;
inline constexpr int kTileHeads = 8;
// Below every logit, and finite: no difference of shifts is NaN.
inline constexpr float kNoShift = -1e30f;

// 2^x; 0 for -inf.
__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Merges states of one head, weighted values and sums of weights relative to a shift, one after another.
class StateMerger {
 public:
  // *shift: of the total; it becomes the merged one's.
  __device__ StateMerger(float own_shift, float* shift) {
    const float merged = fmaxf(*shift, own_shift);
    total_weight_ = Exp2(*shift - merged);
    own_weight_ = Exp2(own_shift - merged);
    *shift = merged;
  }
  __device__ void Add(float own, float* total) const { *total = fmaf(own_weight_, own, *total * total_weight_); }

 private:
  float total_weight_, own_weight_;
};

__device__ inline uint32_t Transpose8x8(uint32_t fragment) {
  uint32_t transposed;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(fragment));
  return transposed;
}

template <class T>
struct HalfPair;

template <>
struct HalfPair<__nv_bfloat16> {
  // At a move of the shift the largest weight becomes 2^kPeak; it may grow to 2^kLimit before the next move.
  static constexpr float kPeak = 0, kLimit = 8;
  __device__ static uint32_t Pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return reinterpret_cast<const uint32_t&>(pair);
  }
  __device__ static float2 Unpack(uint32_t pair) {
    return __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(pair));
  }
  // c += a b
  __device__ static void Mma(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (&c)[4]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

template <>
struct HalfPair<__half> {
  // fp16 weights below 2^-14 lose bits: they start high.
  static constexpr float kPeak = 10, kLimit = 15;
  __device__ static uint32_t Pack(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return reinterpret_cast<const uint32_t&>(pair);
  }
  __device__ static float2 Unpack(uint32_t pair) { return __half22float2(reinterpret_cast<const __half2&>(pair)); }
  __device__ static void Mma(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (&c)[4]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
};

}  // namespace spotlight::kernels::cuda
