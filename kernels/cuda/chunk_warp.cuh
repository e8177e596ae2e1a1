// A warp's 32 rows of chunk attention: FlashAttention-2's loop on m16n8k16 products. A row is one query head of one
// query; its queries and a tile's keys and values are read from shared memory by ldmatrix, and weights stay in the
// registers in which the products of queries and keys leave them.
//
// Softmax is online, in base 2, with one shift per row that moves only when a logit passes it by more than the storage
// type's weights can hold (as in attend_tile.cuh).
#pragma once

#include "kernels/cuda/attend_primitives.cuh"
#include "kernels/cuda/bulk_copy.cuh"

namespace spotlight::kernels::cuda {

__device__ inline void LoadMatrices(uint32_t (&matrices)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(address));
}
__device__ inline void LoadTransposed(uint32_t (&matrices)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(address));
}

// Ring: a PageRing.
template <class T, int kDim, class Ring, int kTokens>
class ChunkWarp {
  static constexpr int kKeyTiles = kTokens / 8, kDimSteps = kDim / 16;

 public:
  static constexpr int kRows = 32;
  // A row of queries in shared memory, padded against bank conflicts.
  static constexpr int kQueryStride = kDim * 2 + 16;

  // queries: the warp's rows in shared memory. length(row): how many tokens row [0, 32) attends to; 0: whatever.
  template <class Length>
  __device__ ChunkWarp(const char* queries, float scale_log2, const Length& length) : scale_(scale_log2) {
    const int lane = threadIdx.x % 32;
    queries_ = SharedAddress(queries + lane % 16 * kQueryStride + lane / 16 * 16);
    whole_ = INT32_MAX;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      lengths_[r] = length(lane / 4 + 8 * r);
      if (lengths_[r] > 0) whole_ = min(whole_, lengths_[r]);
      shift_[r] = kNoShift;
      sum_[r] = 0;
    }
    for (int offset = 16; offset > 0; offset /= 2) whole_ = min(whole_, __shfl_xor_sync(~0u, whole_, offset));
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        for (int k = 0; k < 4; ++k) values_[m][n][k] = 0;
      }
    }
  }

  // Adds the tile of tokens [first, first + kTokens), which is in `slot`.
  __device__ void Add(const char* slot, int32_t first) {
    const int lane = threadIdx.x % 32;
    float logits[2][kKeyTiles][4] = {};
    const uint32_t keys = SharedAddress(slot) + lane % 8 * Ring::kGroupBytes + lane / 8 * 16;
#pragma unroll
    for (int step = 0; step < kDimSteps; step += 2) {
      uint32_t q[2][2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        LoadMatrices(q[m][0], queries_ + m * 16 * kQueryStride + step * 32);
        LoadMatrices(q[m][1], queries_ + m * 16 * kQueryStride + step * 32 + 32);
      }
#pragma unroll
      for (int j = 0; j < kKeyTiles; ++j) {
        uint32_t k[4];
        LoadMatrices(k, keys + j * (4 * kDim) + step * 32);
#pragma unroll
        for (int m = 0; m < 2; ++m) HalfPair<T>::Mma(q[m][0], k[0], k[1], logits[m][j]);
#pragma unroll
        for (int m = 0; m < 2; ++m) HalfPair<T>::Mma(q[m][1], k[2], k[3], logits[m][j]);
      }
    }
    if (first + kTokens > whole_) Mask(first, &logits);
    MoveShifts(logits);
    uint32_t weights[2][kKeyTiles][2];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int j = 0; j < kKeyTiles; ++j) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float shift = shift_[2 * m + h];
          const float low = Exp2(fmaf(logits[m][j][2 * h], scale_, -shift));
          const float high = Exp2(fmaf(logits[m][j][2 * h + 1], scale_, -shift));
          sum_[2 * m + h] += low + high;
          weights[m][j][h] = HalfPair<T>::Pack(low, high);
        }
      }
    }
    const uint32_t values =
        SharedAddress(slot) + lane % 8 * Ring::kGroupBytes + lane / 8 % 2 * (4 * kDim) + lane / 16 * 16 + 2 * kDim;
#pragma unroll
    for (int j = 0; j < kKeyTiles; j += 2) {
#pragma unroll
      for (int n = 0; n < kDim / 8; n += 2) {
        uint32_t v[4];
        LoadTransposed(v, values + j * (4 * kDim) + n * 16);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          const uint32_t a[4] = {weights[m][j][0], weights[m][j][1], weights[m][j + 1][0], weights[m][j + 1][1]};
          HalfPair<T>::Mma(a, v[0], v[1], values_[m][n]);
          HalfPair<T>::Mma(a, v[2], v[3], values_[m][n + 1]);
        }
      }
    }
  }

  // values [32, kDim], not normalised; shifts [32]; sums [32].
  __device__ void Store(float* values, float* shifts, float* sums) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int row = lane / 4 + 8 * r;
      float sum = sum_[r];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      if (lane % 4 == 0) {
        shifts[row] = shift_[r];
        sums[row] = sum;
      }
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        *reinterpret_cast<float2*>(values + row * kDim + n * 8 + lane % 4 * 2) =
            make_float2(values_[r / 2][n][r % 2 * 2], values_[r / 2][n][r % 2 * 2 + 1]);
      }
    }
  }

 private:
  // A tile's matrix j has token i * (kTokens / 8) + j in its row i.
  __device__ void Mask(int32_t first, float (*logits)[2][kKeyTiles][4]) const {
    const int column = threadIdx.x % 4 * 2;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int j = 0; j < kKeyTiles; ++j) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int32_t token = first + (column + k % 2) * Ring::kGroupTokens + j;
          if (token >= lengths_[2 * m + k / 2]) (*logits)[m][j][k] = -INFINITY;
        }
      }
    }
  }

  __device__ void MoveShifts(const float (&logits)[2][kKeyTiles][4]) {
    float largest[4];
    bool far = false;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      largest[r] = -INFINITY;
#pragma unroll
      for (int j = 0; j < kKeyTiles; ++j) {
        largest[r] = fmaxf(largest[r], fmaxf(logits[r / 2][j][r % 2 * 2], logits[r / 2][j][r % 2 * 2 + 1]));
      }
      far = far || fmaf(largest[r], scale_, -shift_[r]) > HalfPair<T>::kLimit;
    }
    if (!__any_sync(~0u, far)) return;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      largest[r] = fmaxf(largest[r], __shfl_xor_sync(~0u, largest[r], 1));
      largest[r] = fmaxf(largest[r], __shfl_xor_sync(~0u, largest[r], 2));
      const float shift = fmaxf(shift_[r], largest[r] * scale_ - HalfPair<T>::kPeak);
      const float scale = Exp2(shift_[r] - shift);
      shift_[r] = shift;
      sum_[r] *= scale;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        values_[r / 2][n][r % 2 * 2] *= scale;
        values_[r / 2][n][r % 2 * 2 + 1] *= scale;
      }
    }
  }

  const float scale_;
  uint32_t queries_;
  int32_t whole_;       // every row attends to all tokens before it
  int32_t lengths_[4];  // of rows lane / 4 + 8 r, like shift_ and sum_
  float shift_[4], sum_[4];
  float values_[2][kDim / 8][4];
};

}  // namespace spotlight::kernels::cuda
