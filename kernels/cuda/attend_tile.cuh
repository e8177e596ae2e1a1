// Decode attention's inner loop: one warp, the query heads of one KV head, tiles of 16 cached tokens. K and V come in
// the order in which they lie in memory, a 16-byte chunk at a time, and are what the tensor cores read: no transposing
// loads.
//
//   AttendWarp<T, kDim, kHeadTiles> warp;              // kHeadTiles = ceil(group / 8)
//   typename AttendWarp<...>::Tile tile;               // 16 tokens' K and V: kDim / 2 registers a lane
//   warp.LoadQuery(q, group, softmax_scale * log2(e)); // q: the group's rows [group, kDim], 16-byte aligned
//   warp.Reset();
//   Warp::VisitKeys(row, &tile, read);                 // row(m): where the tile's row m begins
//   weights = warp.Score(tile, present);
//   Warp::VisitValues(row, &tile, read);
//   warp.AddValues(tile, weights);
//   MergeWarps(...)                                    // attend_merge.cuh; or Store(...)
//
// A token is kDim elements of K, then kDim of V, 16-byte aligned. A row that is not present weighs exactly nothing, but
// what is read for it must be finite: some present token's. All 32 lanes call everything together.
//
// Both products may take dimensions in any order, as long as both factors agree:
//   S^T [16 tokens, 8 heads] = K q^T: lane (r, c) = (lane / 4, lane % 4) holds 16-byte chunks c, c + 4, ... of tokens r
//     and r + 8 and of query head r; a chunk's 8 dimensions feed two m16n8k16.
//   O^T [16 dims, 8 heads] = V^T P^T: the lane holds chunks r, r + 8 of tokens 2c, 2c + 1, 2c + 8, 2c + 9. Word i of a
//     chunk gives row r its dimension 8r + 2i and row r + 8 its dimension 8r + 2i + 1. P^T is S^T's fragment,
//     transposed 8 x 8 at a time.
// Softmax is online, in base 2: weights are 2^(logit - shift) with one shift per head. A shift moves only when a logit
// passes it by more than the storage type's weights can hold; that is rare after the first tile, so the usual tile
// needs one vote and no reduction. Sums add the weights as rounded for the product.
#pragma once

#include <cstdint>

#include "kernels/cuda/attend_primitives.cuh"
#include "kernels/cuda/attend_tile_f32.cuh"
#include "kernels/cuda/e4m3.cuh"

namespace spotlight::kernels::cuda {

template <class T, int kDim, int kHeadTiles>
class AttendWarp {
  static_assert(sizeof(T) == 2 && kDim % 64 == 0);
  static constexpr int kKeyChunks = kDim / 32, kValueChunks = kDim / 64;

 public:
  struct Tile {
    uint4 keys[2][kKeyChunks];
    uint4 values[kValueChunks][4];
  };
  // A tile's weights as the second product reads them.
  struct Weights {
    uint32_t pairs[kHeadTiles][2];
  };
  // States of this kind, merged one after another by MergeInto.
  struct Total {
    float values[kHeadTiles][kDim / 16][4], shift[kHeadTiles][2], sum[kHeadTiles][2];
  };
  // There are registers for a total beside a state.
  static constexpr bool kMerges = kHeadTiles == 1;

  __device__ void LoadQuery(const T* q, int group, float scale_log2) {
    scale_ = scale_log2;
#pragma unroll
    for (int t = 0; t < kHeadTiles; ++t) {
      const int head = t * kTileHeads + LaneRow();
#pragma unroll
      for (int j = 0; j < kKeyChunks; ++j) {
        query_[t][j] = head < group ? *reinterpret_cast<const uint4*>(q + head * kDim + (LaneColumn() + 4 * j) * 8)
                                    : make_uint4(0, 0, 0, 0);
      }
    }
  }

  // Nothing attended yet.
  __device__ void Reset() {
#pragma unroll
    for (int t = 0; t < kHeadTiles; ++t) {
#pragma unroll
      for (int i = 0; i < kDim / 16; ++i) {
        for (int k = 0; k < 4; ++k) values_[t][i][k] = 0;
      }
      for (int k = 0; k < 2; ++k) {
        shift_[t][k] = kNoShift;
        sum_[t][k] = 0;
      }
    }
  }

  // Calls visit(chunk, register) for every chunk of K, or of V, that the lane holds; row(m): where the tile's row m
  // begins.
  template <class Row, class Visit>
  __device__ static void VisitKeys(const Row& row, Tile* tile, const Visit& visit) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const T* key = row(LaneRow() + 8 * half) + LaneColumn() * 8;
#pragma unroll
      for (int j = 0; j < kKeyChunks; ++j) visit(key + 4 * j * 8, &tile->keys[half][j]);
    }
  }
  template <class Row, class Visit>
  __device__ static void VisitValues(const Row& row, Tile* tile, const Visit& visit) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const T* value = row(2 * LaneColumn() + k % 2 + k / 2 * 8) + kDim + LaneRow() * 8;
#pragma unroll
      for (int j = 0; j < kValueChunks; ++j) visit(value + 8 * j * 8, &tile->values[j][k]);
    }
  }

  // Score reads a tile's keys only, AddValues its values only. Bit i of `present` stands for the
  // tile's row i: tokens may sit in any order, and absent ones need finite values only.
  __device__ Weights Score(const Tile& tile, uint32_t present) {
    Weights weights;
#pragma unroll
    for (int t = 0; t < kHeadTiles; ++t) {
      float even[4] = {}, odd[4] = {};  // two chains: the products of one would wait for each other
#pragma unroll
      for (int j = 0; j < kKeyChunks; ++j) {
        const uint4 low = tile.keys[0][j], high = tile.keys[1][j], q = query_[t][j];
        HalfPair<T>::Mma({low.x, high.x, low.y, high.y}, q.x, q.y, even);
        HalfPair<T>::Mma({low.z, high.z, low.w, high.w}, q.z, q.w, odd);
      }
      float logits[4];  // of (token r, heads 2c and 2c + 1), then token r + 8
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        logits[k] = (even[k] + odd[k]) * scale_;
        if ((present >> (LaneRow() + k / 2 * 8) & 1) == 0) logits[k] = -INFINITY;
      }
      const float highest =
          fmaxf(fmaxf(logits[0], logits[2]) - shift_[t][0], fmaxf(logits[1], logits[3]) - shift_[t][1]);
      if (__any_sync(~0u, highest > HalfPair<T>::kLimit)) MoveShift(t, logits);
      float p[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) p[k] = Exp2(logits[k] - shift_[t][k % 2]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t pair = HalfPair<T>::Pack(p[2 * half], p[2 * half + 1]);
        const float2 rounded = HalfPair<T>::Unpack(pair);
        sum_[t][0] += rounded.x;
        sum_[t][1] += rounded.y;
        weights.pairs[t][half] = Transpose8x8(pair);
      }
    }
    return weights;
  }

  __device__ void AddValues(const Tile& tile, const Weights& weights) {
#pragma unroll
    for (int j = 0; j < kValueChunks; ++j) {
      const uint4(&v)[4] = tile.values[j];
      AddWord(v[0].x, v[1].x, v[2].x, v[3].x, weights, 4 * j);
      AddWord(v[0].y, v[1].y, v[2].y, v[3].y, weights, 4 * j + 1);
      AddWord(v[0].z, v[1].z, v[2].z, v[3].z, weights, 4 * j + 2);
      AddWord(v[0].w, v[1].w, v[2].w, v[3].w, weights, 4 * j + 3);
    }
  }

  __device__ static void Reset(Total* total) {
#pragma unroll
    for (int t = 0; t < kHeadTiles; ++t) {
#pragma unroll
      for (int i = 0; i < kDim / 16; ++i) {
        for (int k = 0; k < 4; ++k) total->values[t][i][k] = 0;
      }
      for (int k = 0; k < 2; ++k) {
        total->shift[t][k] = kNoShift;
        total->sum[t][k] = 0;
      }
    }
  }
  // As StateMerger does with a state that was stored.
  __device__ void MergeInto(Total* total) const {
#pragma unroll
    for (int t = 0; t < kHeadTiles; ++t) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const StateMerger merger(shift_[t][k], &total->shift[t][k]);
        merger.Add(SumOfLanes(sum_[t][k]), &total->sum[t][k]);
#pragma unroll
        for (int i = 0; i < kDim / 16; ++i) {
          merger.Add(values_[t][i][k], &total->values[t][i][k]);
          merger.Add(values_[t][i][k + 2], &total->values[t][i][k + 2]);
        }
      }
    }
  }
  // Has attended to what the total has.
  __device__ void Take(const Total& total) {
#pragma unroll
    for (int t = 0; t < kHeadTiles; ++t) {
#pragma unroll
      for (int i = 0; i < kDim / 16; ++i) {
        for (int k = 0; k < 4; ++k) values_[t][i][k] = total.values[t][i][k];
      }
      for (int k = 0; k < 2; ++k) {
        shift_[t][k] = total.shift[t][k];
        sum_[t][k] = LaneRow() == 0 ? total.sum[t][k] : 0.0f;
      }
    }
  }

  // Writes the state of heads [8t, 8t + 8): values [8, stride] (stride a multiple of 4), shifts [8], sums [8].
  __device__ void Store(int t, int stride, float* values, float* shifts, float* sums) const {
#pragma unroll
    for (int part = 0; part < kDim / 64; ++part) StoreValues(t, part, stride, values + 64 * part);
    StoreSums(t, shifts, sums);
  }
  // Dimensions [64 part, 64 part + 64) alone.
  __device__ void StoreValues(int t, int part, int stride, float* values) const {
#pragma unroll
    for (int i = 0; i < kHeadTiles * kDim / 16; i += 2) {
      const int s = i / (kDim / 16), j = i % (kDim / 16);
      if (s != t || j / 4 != part) continue;
      const float(&a)[4] = values_[s][j], (&b)[4] = values_[s][j + 1];
      float* out = values + 2 * LaneColumn() * stride + LaneRow() * 8 + j % 4 * 2;
      *reinterpret_cast<float4*>(out) = make_float4(a[0], a[2], b[0], b[2]);
      *reinterpret_cast<float4*>(out + stride) = make_float4(a[1], a[3], b[1], b[3]);
    }
  }
  __device__ void StoreSums(int t, float* shifts, float* sums) const {
#pragma unroll
    for (int s = 0; s < kHeadTiles; ++s) {
      if (s != t) continue;
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const float sum = SumOfLanes(sum_[s][k]);
        if (LaneRow() != 0) continue;
        shifts[2 * LaneColumn() + k] = shift_[s][k];
        sums[2 * LaneColumn() + k] = sum;
      }
    }
  }

 protected:
  __device__ static int LaneRow() {
    return static_cast<int>(threadIdx.x % 32) / 4;
  }
  __device__ static int LaneColumn() {
    return static_cast<int>(threadIdx.x % 4);
  }

  // Over the lanes of one column.
  __device__ static float SumOfLanes(float sum) {
    for (int offset = 4; offset < 32; offset *= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    return sum;
  }

  __device__ void MoveShift(int t, const float (&logits)[4]) {
    for (int k = 0; k < 2; ++k) {
      float largest = fmaxf(logits[k], logits[k + 2]);
      for (int offset = 4; offset < 32; offset *= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, offset));
      const float shift = fmaxf(shift_[t][k], largest - HalfPair<T>::kPeak);
      const float scale = Exp2(shift_[t][k] - shift);
      shift_[t][k] = shift;
      sum_[t][k] *= scale;
#pragma unroll
      for (int i = 0; i < kDim / 16; ++i) {
        values_[t][i][k] *= scale;
        values_[t][i][k + 2] *= scale;
      }
    }
  }

  // One word of the chunk, of tokens 2c, 2c + 1, 2c + 8, 2c + 9.
  __device__ void AddWord(uint32_t a, uint32_t b, uint32_t c, uint32_t d, const Weights& weights, int i) {
    const uint32_t rows[4] = {__byte_perm(a, b, 0x5410), __byte_perm(a, b, 0x7632), __byte_perm(c, d, 0x5410),
                              __byte_perm(c, d, 0x7632)};
#pragma unroll
    for (int t = 0; t < kHeadTiles; ++t) {
      HalfPair<T>::Mma(rows, weights.pairs[t][0], weights.pairs[t][1], values_[t][i]);
    }
  }

  float scale_;
  uint4 query_[kHeadTiles][kKeyChunks];
  float values_[kHeadTiles][kDim / 16][4];  // weighted V of heads 2c, 2c + 1
  float shift_[kHeadTiles][2];              // of heads 2c, 2c + 1, the same on every r
  float sum_[kHeadTiles][2];                // of the lane's own tokens
};

}  // namespace spotlight::kernels::cuda

#include "kernels/cuda/attend_tile_e4m3.cuh"
