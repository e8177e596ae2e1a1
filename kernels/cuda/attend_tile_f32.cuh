// attend_tile.cuh's interface for fp32. Include that, not this.
#pragma once

#include "kernels/cuda/attend_primitives.cuh"

namespace spotlight::kernels::cuda {

template <class T, int kDim, int kHeadTiles>
class AttendWarp;

// Plain arithmetic, correct and not tuned. A lane holds kDim / 32 dimensions.
template <int kDim, int kHeadTiles>
class AttendWarp<float, kDim, kHeadTiles> {
  static constexpr int kHeads = kHeadTiles * kTileHeads, kElements = kDim / 32;

 public:
  struct Tile {
    const float* token;  // lane i: token i % 16
  };
  struct Total {};
  static constexpr bool kMerges = false;

  __device__ void LoadQuery(const float* q, int group, float scale_log2) {
    group_ = group;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        query_[h][e] = h < group ? q[h * kDim + Lane() * kElements + e] * scale_log2 : 0.0f;
      }
    }
  }

  __device__ void Reset() {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      for (int e = 0; e < kElements; ++e) values_[h][e] = 0;
      shift_[h] = kNoShift;
      sum_[h] = 0;
    }
  }

  template <class Address>
  __device__ static void Load(const Address& address, int count, Tile* tile) {
    const int token = Lane() % kTileTokens;
    tile->token = address(token < count ? token : 0);
  }
  __device__ void Accumulate(const Tile& tile, int count) {
    for (int i = 0; i < count; ++i) {
      const auto address = __shfl_sync(~0u, reinterpret_cast<unsigned long long>(tile.token), i);
      const float* key = reinterpret_cast<const float*>(address) + Lane() * kElements;
      float k[kElements], v[kElements];
      for (int e = 0; e < kElements; ++e) {
        k[e] = key[e];
        v[e] = key[kDim + e];
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (h < group_) AddToken(h, k, v);
      }
    }
  }
  __device__ void Store(int t, int stride, float* values, float* shifts, float* sums) const {
    for (int part = 0; part < kDim / 64; ++part) StoreValues(t, part, stride, values + 64 * part);
    StoreSums(t, shifts, sums);
  }
  __device__ void StoreValues(int t, int part, int stride, float* values) const {
    const int dim = Lane() * kElements;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h / kTileHeads != t || dim / 64 != part) continue;
      for (int e = 0; e < kElements; ++e) values[h % kTileHeads * stride + dim % 64 + e] = values_[h][e];
    }
  }
  __device__ void StoreSums(int t, float* shifts, float* sums) const {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h / kTileHeads != t || Lane() != 0) continue;
      shifts[h % kTileHeads] = shift_[h];
      sums[h % kTileHeads] = sum_[h];
    }
  }

 private:
  __device__ static int Lane() {
    return static_cast<int>(threadIdx.x % 32);
  }

  __device__ void AddToken(int h, const float (&k)[kElements], const float (&v)[kElements]) {
    float logit = 0;
    for (int e = 0; e < kElements; ++e) logit = fmaf(query_[h][e], k[e], logit);
    for (int offset = 16; offset > 0; offset /= 2) logit += __shfl_xor_sync(~0u, logit, offset);
    const float shift = fmaxf(shift_[h], logit);
    const float scale = Exp2(shift_[h] - shift), weight = Exp2(logit - shift);
    shift_[h] = shift;
    sum_[h] = fmaf(sum_[h], scale, weight);
    for (int e = 0; e < kElements; ++e) values_[h][e] = fmaf(weight, v[e], values_[h][e] * scale);
  }

  int group_;
  float query_[kHeads][kElements], values_[kHeads][kElements];
  float shift_[kHeads], sum_[kHeads];
};

}  // namespace spotlight::kernels::cuda
