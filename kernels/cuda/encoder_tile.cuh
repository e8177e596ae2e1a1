// An encoder as tensor-core products of 16 outputs x 16 inputs x 8 tokens (mma.m16n8k16): the weights are the left
// operand, tokens are columns, so a token's result never depends on its neighbours.
//
// Weights lie in shared memory as tiles of 16 inputs x 16 outputs: 512 bytes, a row of 32 bytes per input, the halves
// of a row swapped in every other group of four rows (no bank conflicts). Activations are bf16; what bf16 cannot hold
// goes into a second, low part.
//
// Both kernels add up an output in the same order, so that a key's bits do not depend on which one made them: the parts
// 0 .. kParts - 1 in order, each a chain of its own: its tiles of inputs (skip), then its tiles of hidden units.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/encode_and_append.h"

namespace spotlight::kernels::cuda {

constexpr int kParts = 16;
constexpr int kTileBytes = 512;
// The products of a hidden unit are summed in chunks of this many tiles of inputs.
constexpr int kChunkTiles = 8;

// Part `part` owns tiles [first, last) of `tiles`.
struct TileRange {
  int first, last;
  __host__ __device__ TileRange(int part, int tiles)
      : first(part * tiles / kParts), last((part + 1) * tiles / kParts) {}
  __host__ __device__ int size() const { return last - first; }
};

constexpr __host__ __device__ int CeilDiv(int a, int b) {
  return (a + b - 1) / b;
}

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ inline void CopyAsync16(uint32_t shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}

__device__ inline void CopyAsync8(uint32_t shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared), "l"(global) : "memory");
}

__device__ inline void CopyAsync4(uint32_t shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared), "l"(global) : "memory");
}

__device__ inline void WaitForCopies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

__device__ inline void LoadMatrices(uint32_t address, uint32_t (&x)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address)
               : "memory");
}

__device__ inline void LoadMatricesTransposed(uint32_t address, uint32_t (&x)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address)
               : "memory");
}

// An 8 x 8 matrix of bf16, two neighbours of a row per lane.
__device__ inline uint32_t TransposeMatrix(uint32_t x) {
  uint32_t y;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// sum += a b. Lane (g, t) = (lane / 4, lane % 4) holds sum of outputs g (0, 1) and g + 8 (2, 3), tokens 2t and 2t + 1.
__device__ inline void Multiply(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (&sum)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Byte of (input, half of the 16 outputs) within consecutive tiles.
__device__ inline int TileOffset(int input, int half) {
  return input * 32 + ((half ^ (input >> 2 & 1)) << 4);
}

// Where this lane's row of a tile lies for LoadMatricesTransposed.
__device__ inline int LaneTileOffset(int lane) {
  return TileOffset((lane & 7) + (lane >> 4 & 1) * 8, lane >> 3 & 1);
}

// Starts the copy of rows [0, num_rows) and columns [0, 16 * kColumns) of a row-major matrix into tiles
// [kColumns][num_rows / 16], shared out among num_threads: a multiple of 16 * kColumns.
template <int kColumns>
__device__ inline void CopyTiles(const __nv_bfloat16* source, int row_stride, int num_rows, uint32_t tiles, int thread,
                                 int num_threads) {
  const int piece = thread % (2 * kColumns), first_row = thread / (2 * kColumns);
  const int step = num_threads / (2 * kColumns);  // a multiple of 8: the swapping of halves stays the same
  source += first_row * row_stride + piece * 8;
  tiles += piece / 2 * num_rows * 32 + TileOffset(first_row, piece % 2);
#pragma unroll 1
  for (int row = first_row; row < num_rows; row += step) {
    CopyAsync16(tiles, source);
    source += step * row_stride;
    tiles += step * 32;
  }
}

// A hidden unit and a rotated fp16 value are close to fp32: bf16 parts hold 16 bits of them.
__device__ inline void Split(float x, __nv_bfloat16* high, __nv_bfloat16* low) {
  *high = __float2bfloat16_rn(x);
  *low = __float2bfloat16_rn(__fsub_rn(x, __bfloat162float(*high)));
}

__device__ inline uint32_t Pack(__nv_bfloat16 first, __nv_bfloat16 second) {
  return uint32_t{__bfloat16_as_ushort(first)} | uint32_t{__bfloat16_as_ushort(second)} << 16;
}

__device__ inline float Silu(float x) {
  return __fdividef(x, __fadd_rn(1.0f, __expf(-x)));
}

}  // namespace spotlight::kernels::cuda
