// attend_tile.cuh's interface for keys and values in e4m3, which become bf16 in registers. Include that, not this.
#pragma once

#include <cstdint>

#include "kernels/cuda/attend_tile.cuh"
#include "kernels/cuda/e4m3.cuh"

namespace spotlight::kernels::cuda {

// A chunk is 8 elements in 8 bytes. Beside a tile's keys and values there are its scales, {K's, V's} for each token: a
// logit is multiplied by K's, and a weight by V's before it is rounded for the second product.
//
//   Warp::VisitScales(scale, &tile);  // scale(m): of the tile's row m, or of a row that is present
//
// Widened values come times 2^-120 (e4m3.cuh). Queries and weights make up for kRaise of it, and the logits' scale and
// the sums of weights for the rest, so that no product leaves the range of fp32: while
// queries, keys and values have magnitudes below 2^64. A larger V's raised scale overflows, or its inverse is 0.
template <int kDim, int kHeadTiles>
class AttendWarp<__nv_fp8_e4m3, kDim, kHeadTiles> : public AttendWarp<__nv_bfloat16, kDim, kHeadTiles> {
  using Base = AttendWarp<__nv_bfloat16, kDim, kHeadTiles>;
  using Half = HalfPair<__nv_bfloat16>;
  static constexpr int kKeyChunks = kDim / 32, kValueChunks = kDim / 64;
  static constexpr float kRaise = 0x1p64f, kRest = kWidenedScale * kRaise;

 public:
  using Weights = typename Base::Weights;
  struct Tile {
    uint2 keys[2][kKeyChunks];
    uint2 values[kValueChunks][4];
    float2 scales[2];  // of rows r and r + 8
  };

  __device__ void LoadQuery(const __nv_bfloat16* q, int group, float scale_log2) {
    Base::LoadQuery(q, group, scale_log2 / kRest);
    const __nv_bfloat162 raise = __float2bfloat162_rn(kRaise);
    const auto raised = [&raise](uint32_t low, uint32_t high, uint32_t halves) {
      const uint32_t pair = __byte_perm(low, high, halves);
      const __nv_bfloat162 product = __hmul2(reinterpret_cast<const __nv_bfloat162&>(pair), raise);
      return reinterpret_cast<const uint32_t&>(product);
    };
#pragma unroll
    for (int t = 0; t < kHeadTiles; ++t) {
#pragma unroll
      for (int j = 0; j < kKeyChunks; ++j) {  // dimensions 0 and 2, 1 and 3: as keys widen
        const uint4 q4 = this->query_[t][j];
        this->query_[t][j] = make_uint4(raised(q4.x, q4.y, 0x5410), raised(q4.x, q4.y, 0x7632),
                                        raised(q4.z, q4.w, 0x5410), raised(q4.z, q4.w, 0x7632));
      }
    }
  }

  template <class Row, class Visit>
  __device__ static void VisitKeys(const Row& row, Tile* tile, const Visit& visit) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const __nv_fp8_e4m3* key = row(Base::LaneRow() + 8 * half) + Base::LaneColumn() * 8;
#pragma unroll
      for (int j = 0; j < kKeyChunks; ++j) visit(key + 4 * j * 8, &tile->keys[half][j]);
    }
  }
  template <class Row, class Visit>
  __device__ static void VisitValues(const Row& row, Tile* tile, const Visit& visit) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const __nv_fp8_e4m3* value = row(2 * Base::LaneColumn() + k % 2 + k / 2 * 8) + kDim + Base::LaneRow() * 8;
#pragma unroll
      for (int j = 0; j < kValueChunks; ++j) visit(value + 8 * j * 8, &tile->values[j][k]);
    }
  }
  template <class Scale>
  __device__ static void VisitScales(const Scale& scale, Tile* tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) tile->scales[half] = scale(Base::LaneRow() + 8 * half);
  }

  // Reads the tile's keys and scales.
  __device__ Weights Score(const Tile& tile, uint32_t present) {
    float even[kHeadTiles][4] = {}, odd[kHeadTiles][4] = {};
#pragma unroll
    for (int j = 0; j < kKeyChunks; ++j) {
      const uint2 low = tile.keys[0][j], high = tile.keys[1][j];
      uint32_t first[4], second[4];
      WidenScaled(low.x, &first[0], &first[2]);
      WidenScaled(high.x, &first[1], &first[3]);
      WidenScaled(low.y, &second[0], &second[2]);
      WidenScaled(high.y, &second[1], &second[3]);
#pragma unroll
      for (int t = 0; t < kHeadTiles; ++t) {
        const uint4 q = this->query_[t][j];
        Half::Mma(first, q.x, q.y, even[t]);
        Half::Mma(second, q.z, q.w, odd[t]);
      }
    }
    float key_scale[2], raised[2], lowered[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      key_scale[half] = this->scale_ * tile.scales[half].x;
      raised[half] = tile.scales[half].y * kRaise;
      lowered[half] = __fdividef(1.0f, raised[half]);
    }
    Weights weights;
#pragma unroll
    for (int t = 0; t < kHeadTiles; ++t) {
      float logits[4];  // of (token r, heads 2c and 2c + 1), then token r + 8
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        logits[k] = (even[t][k] + odd[t][k]) * key_scale[k / 2];
        if ((present >> (Base::LaneRow() + k / 2 * 8) & 1) == 0) logits[k] = -INFINITY;
      }
      const float highest =
          fmaxf(fmaxf(logits[0], logits[2]) - this->shift_[t][0], fmaxf(logits[1], logits[3]) - this->shift_[t][1]);
      if (__any_sync(~0u, highest > Half::kLimit)) this->MoveShift(t, logits);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t pair = Half::Pack(Exp2(logits[2 * half] - this->shift_[t][0]) * raised[half],
                                         Exp2(logits[2 * half + 1] - this->shift_[t][1]) * raised[half]);
        const float2 rounded = Half::Unpack(pair);
        this->sum_[t][0] = fmaf(rounded.x * lowered[half], kRest, this->sum_[t][0]);
        this->sum_[t][1] = fmaf(rounded.y * lowered[half], kRest, this->sum_[t][1]);
        weights.pairs[t][half] = Transpose8x8(pair);
      }
    }
    return weights;
  }

  __device__ void AddValues(const Tile& tile, const Weights& weights) {
#pragma unroll
    for (int j = 0; j < kValueChunks; ++j) {
      const uint2(&v)[4] = tile.values[j];
      AddFour(v[0].x, v[1].x, v[2].x, v[3].x, weights, 4 * j);
      AddFour(v[0].y, v[1].y, v[2].y, v[3].y, weights, 4 * j + 2);
    }
  }

 private:
  // Four dimensions of tokens 2c, 2c + 1, 2c + 8, 2c + 9.
  __device__ void AddFour(uint32_t a, uint32_t b, uint32_t c, uint32_t d, const Weights& weights, int i) {
    uint32_t first[4], second[4];
    WidenScaled(__byte_perm(a, b, 0x5410), &first[0], &first[1]);
    WidenScaled(__byte_perm(c, d, 0x5410), &first[2], &first[3]);
    WidenScaled(__byte_perm(a, b, 0x7632), &second[0], &second[1]);
    WidenScaled(__byte_perm(c, d, 0x7632), &second[2], &second[3]);
#pragma unroll
    for (int t = 0; t < kHeadTiles; ++t) {
      Half::Mma(first, weights.pairs[t][0], weights.pairs[t][1], this->values_[t][i]);
      Half::Mma(second, weights.pairs[t][0], weights.pairs[t][1], this->values_[t][i + 1]);
    }
  }
};

}  // namespace spotlight::kernels::cuda
