// A page of keys and values shared out over a block: loads to registers, and logits of a query group against the keys.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/quality_workspace.cuh"
#include "kernels/layout.h"

namespace spotlight::kernels::cuda {

inline constexpr int kPageThreads = 256;
inline constexpr float kLog2E = 1.44269504f;

// How a block shares out a page: eight elements of a key to a lane, two of a value.
template <int kDim>
struct PageShare {
  static constexpr int kKeyLanes = kDim / 8;
  static constexpr int kKeySlots = kPageThreads / kKeyLanes;  // tokens side by side
  static constexpr int kKeyTokens = kPageTokens / kKeySlots;  // per lane
  static constexpr int kSumLanes = kKeyLanes / kKeyTokens;    // lanes that end up with one token's logit
  static constexpr int kValueLanes = kDim / 2;
  static constexpr int kValueSlots = kPageThreads / kValueLanes;
  static constexpr int kValueTokens = kPageTokens / kValueSlots;  // consecutive, per lane
};

// Place of dimension d of a query in shared memory: a lane's eight elements as two conflict-free float4.
template <int kDim>
__device__ int QueryPlace(int d) {
  return d % 8 / 4 * (kDim / 2) + d / 8 * 4 + d % 4;
}

// The group's queries, scaled to base-2 logits. Every thread must call; a barrier must follow.
template <class Q, int kDim>
__device__ void LoadQueries(const QualityArgs& args, int32_t row, int32_t kv_head, float (*query)[kDim]) {
  const Q* q = static_cast<const Q*>(args.op.q) + (int64_t{row} * args.op.num_q_heads + kv_head * args.group) * kDim;
  for (int i = threadIdx.x; i < args.group * kDim; i += kPageThreads) {
    query[i / kDim][QueryPlace<kDim>(i % kDim)] = ToFloat(q[i]) * (args.op.softmax_scale * kLog2E);
  }
}

// One KV head's tokens of a page.
template <class T>
struct HeadPage {
  const T* kv;          // [P, 2, D]
  const float* scales;  // [P, 2], of tokens in e4m3

  // What an element of token `token` is multiplied by: of its key (side 0) or value (1).
  __device__ float ScaleOf(int token, int side) const {
    if constexpr (kIsE4m3<T>) return __ldg(scales + token * 2 + side);
    return 1.0f;
  }
};

template <class T>
__device__ HeadPage<T> PageOf(const QualityArgs& args, int32_t row, int32_t kv_head, int32_t token) {
  const int64_t page = args.op.page_table[int64_t{row} * args.op.max_pages + token / kPageTokens];
  const int64_t entry = (page * args.op.num_kv_heads + kv_head) * kPageTokens;
  return {static_cast<const T*>(args.op.pages.kv) + entry * 2 * args.op.head_dim, args.op.pages.kv_scale + entry * 2};
}

// This lane's eight elements of each of its tokens; zeros past `count`, which are not read.
template <class T, int kDim>
__device__ void LoadKeys(const HeadPage<T>& page, int32_t count, float (&keys)[PageShare<kDim>::kKeyTokens][8]) {
  using Share = PageShare<kDim>;
  using Load = std::conditional_t<kIsE4m3<T>, uint2, uint4>;
  const int lane = threadIdx.x % Share::kKeyLanes, slot = threadIdx.x / Share::kKeyLanes;
  constexpr int kLoads = sizeof(T) * 8 / sizeof(Load);
  Load raw[Share::kKeyTokens][kLoads];
  float scales[Share::kKeyTokens];
#pragma unroll
  for (int i = 0; i < Share::kKeyTokens; ++i) {
    const int token = i * Share::kKeySlots + slot;
    const Load* key = reinterpret_cast<const Load*>(page.kv + token * 2 * kDim + lane * 8);
#pragma unroll
    for (int j = 0; j < kLoads; ++j) raw[i][j] = token < count ? __ldg(key + j) : Load();
    scales[i] = token < count ? page.ScaleOf(token, 0) : 0.0f;
  }
#pragma unroll
  for (int i = 0; i < Share::kKeyTokens; ++i) {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      keys[i][e] = ToFloat(reinterpret_cast<const T*>(raw[i])[e]);
      if constexpr (kIsE4m3<T>) keys[i][e] *= scales[i];
    }
  }
}

// The token of the page whose logit DotHead leaves in this lane.
template <int kDim>
__device__ int LogitToken() {
  using Share = PageShare<kDim>;
  const int lane = threadIdx.x % Share::kKeyLanes, slot = threadIdx.x / Share::kKeyLanes;
  return lane / Share::kSumLanes * Share::kKeySlots + slot;
}

// Dot product of one query with the key of token LogitToken(). The lanes of a token halve its neighbours' sums and
// theirs at once, so one shuffle serves two tokens; every token's sum has the same order, so equal keys get equal bits.
template <int kDim>
__device__ float DotHead(const float* query, const float (&keys)[PageShare<kDim>::kKeyTokens][8]) {
  using Share = PageShare<kDim>;
  const int lane = threadIdx.x % Share::kKeyLanes;
  const float4 low = *reinterpret_cast<const float4*>(query + lane * 4);
  const float4 high = *reinterpret_cast<const float4*>(query + kDim / 2 + lane * 4);
  float dots[Share::kKeyTokens];
#pragma unroll
  for (int i = 0; i < Share::kKeyTokens; ++i) {
    float dot = low.x * keys[i][0];
    dot = fmaf(low.y, keys[i][1], dot);
    dot = fmaf(low.z, keys[i][2], dot);
    dot = fmaf(low.w, keys[i][3], dot);
    dot = fmaf(high.x, keys[i][4], dot);
    dot = fmaf(high.y, keys[i][5], dot);
    dot = fmaf(high.z, keys[i][6], dot);
    dots[i] = fmaf(high.w, keys[i][7], dot);
  }
#pragma unroll
  for (int live = Share::kKeyTokens / 2, offset = Share::kKeyLanes / 2; live > 0; live /= 2, offset /= 2) {
    const bool upper = (lane & offset) != 0;
#pragma unroll
    for (int i = 0; i < live; ++i) {
      const float kept = upper ? dots[i + live] : dots[i], sent = upper ? dots[i] : dots[i + live];
      dots[i] = kept + __shfl_xor_sync(~0u, sent, offset);
    }
  }
#pragma unroll
  for (int offset = Share::kSumLanes / 2; offset > 0; offset /= 2) dots[0] += __shfl_xor_sync(~0u, dots[0], offset);
  return dots[0];
}

// This lane's two elements of each of its tokens; zeros past `count`, which are not read.
template <class T, int kDim>
struct Values {
  struct Pair {
    T x, y;
  };
  Pair pairs[PageShare<kDim>::kValueTokens];
  float scales[PageShare<kDim>::kValueTokens];

  __device__ float2 At(int i) const {
    const float2 pair = make_float2(ToFloat(pairs[i].x), ToFloat(pairs[i].y));
    if constexpr (kIsE4m3<T>) return make_float2(pair.x * scales[i], pair.y * scales[i]);
    return pair;
  }
};

template <class T, int kDim>
__device__ void LoadValues(const HeadPage<T>& page, int32_t count, Values<T, kDim>* values) {
  using Share = PageShare<kDim>;
  using Word = std::conditional_t<sizeof(T) == 4, uint2, std::conditional_t<sizeof(T) == 2, uint32_t, uint16_t>>;
  const int lane = threadIdx.x % Share::kValueLanes, slot = threadIdx.x / Share::kValueLanes;
#pragma unroll
  for (int i = 0; i < Share::kValueTokens; ++i) {
    const int token = slot * Share::kValueTokens + i;
    Word word = {};
    if (token < count) word = __ldg(reinterpret_cast<const Word*>(page.kv + (token * 2 + 1) * kDim + lane * 2));
    memcpy(&values->pairs[i], &word, sizeof(word));
    values->scales[i] = token < count ? page.ScaleOf(token, 1) : 0.0f;
  }
}

}  // namespace spotlight::kernels::cuda
