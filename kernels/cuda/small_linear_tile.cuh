// Products of small_linear's kernels: 16 outputs by 8 rows on tensor cores, a unit of columns at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/small_linear.h"

namespace spotlight::kernels::cuda {

// Unit u is warp u % kLinearWarps's.
inline constexpr int kLinearWarps = 8;
inline constexpr int kUnit = 64;         // columns
inline constexpr int kTileOutputs = 16;  // of a tensor-core product
inline constexpr int kRows = kMaxSmallLinearRows;

struct Accumulator {
  float at[4];
};

__device__ inline void Multiply(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Accumulator* c,
                                const __nv_bfloat16*) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c->at[0]), "+f"(c->at[1]), "+f"(c->at[2]), "+f"(c->at[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline void Multiply(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Accumulator* c, const __half*) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c->at[0]), "+f"(c->at[1]), "+f"(c->at[2]), "+f"(c->at[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// A thread's part of a unit: two pieces of 16 bytes of each of its rows.
template <int kTiles>
struct WeightUnit {
  uint4 at[kTiles][2][2];  // [tile][row g, row g + 8][columns 8t, columns 32 + 8t]
};
struct InputUnit {
  uint4 at[2];
};

template <typename T, int kTiles>
__device__ void MultiplyUnit(const WeightUnit<kTiles>& w, const InputUnit& x, Accumulator (&sums)[kTiles]) {
#pragma unroll
  for (int piece = 0; piece < 2; ++piece) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const uint4 low = w.at[tile][0][piece], high = w.at[tile][1][piece];
      const uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
      Multiply(first, x.at[piece].x, x.at[piece].y, &sums[tile], static_cast<const T*>(nullptr));
      Multiply(second, x.at[piece].z, x.at[piece].w, &sums[tile], static_cast<const T*>(nullptr));
    }
  }
}

}  // namespace spotlight::kernels::cuda
