// Products of small_linear's kernels: 16 outputs by 8 rows on tensor cores, a unit of columns at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

namespace spotlight::kernels::cuda {

// Unit u is warp u % kLinearWarps's.
inline constexpr int kLinearWarps = 8;
inline constexpr int kUnit = 64;         // columns
inline constexpr int kTileOutputs = 16;  // of a tensor-core product
inline constexpr int kTileRows = 8;

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

// A thread's part of a unit, of weights of type W: pieces of 16 bytes of each of its rows, 64 bytes apart. It takes the
// same columns of x, in two pieces.
template <typename W>
inline constexpr int kPieces = static_cast<int>(sizeof(W));
template <typename W>
__device__ int InputColumn(int lane, int piece) {
  return sizeof(W) == 1 ? 16 * (lane % 4) + 8 * piece : 8 * (lane % 4) + 32 * piece;
}
template <typename W, int kTiles>
struct WeightUnit {
  uint4 at[kTiles][2][kPieces<W>];  // [tile][row g, row g + 8][piece]
};
struct InputUnit {
  uint4 at[2];
};

// sums[r] += w x[r] for the first kUsed tiles, r being 8 rows of x.
template <typename T, int kUsed, int kTiles, int kRowTiles>
__device__ void MultiplyUnit(const WeightUnit<T, kTiles>& w, const InputUnit (&x)[kRowTiles],
                             Accumulator (&sums)[kRowTiles][kTiles]) {
#pragma unroll
  for (int piece = 0; piece < 2; ++piece) {
#pragma unroll
    for (int tile = 0; tile < kUsed; ++tile) {
      const uint4 low = w.at[tile][0][piece], high = w.at[tile][1][piece];
      const uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        Multiply(first, x[r].at[piece].x, x[r].at[piece].y, &sums[r][tile], static_cast<const T*>(nullptr));
        Multiply(second, x[r].at[piece].z, x[r].at[piece].w, &sums[r][tile], static_cast<const T*>(nullptr));
      }
    }
  }
}

// Bytes 0 and 2, and bytes 1 and 3, of four weights as bf16. Exponent and mantissa go where bf16 has theirs, which is
// the weight times 2^-120; the product with 2^120 is exact, subnormals included.
__device__ inline void Widen(uint32_t weights, uint32_t* even, uint32_t* odd) {
  const __nv_bfloat162 unbias = __halves2bfloat162(__ushort_as_bfloat16(0x7b80), __ushort_as_bfloat16(0x7b80));
  const auto scaled = [&unbias](uint32_t bits) {
    const __nv_bfloat162 product = __hmul2(*reinterpret_cast<const __nv_bfloat162*>(&bits), unbias);
    return *reinterpret_cast<const uint32_t*>(&product);
  };
  *even = scaled((weights << 8 & 0x80008000u) | (weights << 4 & 0x07f007f0u));
  *odd = scaled((weights & 0x80008000u) | (weights >> 4 & 0x07f007f0u));
}

template <typename T, int kUsed, int kTiles, int kRowTiles>
__device__ void MultiplyUnit(const WeightUnit<__nv_fp8_e4m3, kTiles>& w, const InputUnit (&x)[kRowTiles],
                             Accumulator (&sums)[kRowTiles][kTiles]) {
  const auto word = [](const uint4& piece, int i) {
    return i == 0 ? piece.x : i == 1 ? piece.y : i == 2 ? piece.z : piece.w;
  };
#pragma unroll
  for (int four = 0; four < 4; ++four) {  // columns at a time
    uint32_t even[kRowTiles], odd[kRowTiles];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      const uint4 piece = x[r].at[four / 2];
      const uint32_t first = word(piece, four % 2 * 2), second = word(piece, four % 2 * 2 + 1);
      even[r] = __byte_perm(first, second, 0x5410);
      odd[r] = __byte_perm(first, second, 0x7632);
    }
#pragma unroll
    for (int tile = 0; tile < kUsed; ++tile) {
      uint32_t a[4];
      Widen(word(w.at[tile][0][0], four), &a[0], &a[2]);
      Widen(word(w.at[tile][1][0], four), &a[1], &a[3]);
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        Multiply(a, even[r], odd[r], &sums[r][tile], static_cast<const T*>(nullptr));
      }
    }
  }
}

}  // namespace spotlight::kernels::cuda
