// How what warps and splits attended to becomes one output, always in the same order: the warps of a block in
// MergeWarps, the splits of a row in CombinePartials.
//
// A partial is what one split of one (row, KV head) leaves in global memory, float: weighted values [group, kDim], not
// normalised; shifts [group]; sums of weights [group].
#pragma once

#include "kernels/cuda/attend_tile.cuh"

namespace spotlight::kernels::cuda {

// 16-byte aligned.
__host__ __device__ constexpr int PartialFloats(int group, int dim) {
  return (group * (dim + 2) + 3) / 4 * 4;
}

// A warp's slot in shared memory: values [8, 64 + 4] (padded against bank conflicts), shifts [8], sums [8].
inline constexpr int kMergeDims = 64;
inline constexpr int kWarpSlotFloats = kTileHeads * (kMergeDims + 4) + 2 * kTileHeads;

// What MergeWarps hands to a sink: four dimensions of one head.
struct MergedValues {
  float4 values;
  float shift, sum;
};

// Writes a split's partial.
template <int kDim>
struct PartialSink {
  float* partial;
  int group;
  __device__ void operator()(int head, int dim, const MergedValues& merged) const {
    *reinterpret_cast<float4*>(partial + head * kDim + dim) = merged.values;
    if (dim != 0) return;
    partial[group * kDim + head] = merged.shift;
    partial[group * kDim + group + head] = merged.sum;
  }
};

// Writes the output rows [group, kDim]; zero where nothing was attended.
template <class T, int kDim>
struct OutputSink {
  T* out;
  __device__ void operator()(int head, int dim, const MergedValues& merged) const {
    const float scale = merged.sum == 0 ? 0.0f : 1.0f / merged.sum;
    const float values[4] = {merged.values.x, merged.values.y, merged.values.z, merged.values.w};
    for (int k = 0; k < 4; ++k) RoundTo(values[k] * scale, out + head * kDim + dim + k);
  }
};

__device__ inline void AddScaled(float weight, float4 values, float4* total) {
  total->x = fmaf(weight, values.x, total->x);
  total->y = fmaf(weight, values.y, total->y);
  total->z = fmaf(weight, values.z, total->z);
  total->w = fmaf(weight, values.w, total->w);
}

// Merges the warps of a block in order. Every thread of the block calls it; `shared` holds kWarps * kWarpSlotFloats
// floats, 16-byte aligned, free again at the block's next barrier. A warp that attended to nothing weighs nothing.
template <int kDim, int kHeadTiles, int kWarps, class Warp, class Sink>
__device__ void MergeWarps(const Warp& warp, int group, float* shared, const Sink& sink) {
  constexpr int kStride = kMergeDims + 4, kShifts = kTileHeads * kStride, kSums = kShifts + kTileHeads;
  constexpr int kColumns = kMergeDims / 4, kParts = kDim / kMergeDims;
#pragma unroll
  for (int pass = 0; pass < kHeadTiles * kParts; ++pass) {
    const int t = pass / kParts, part = pass % kParts;
    if (pass > 0) __syncthreads();
    float* slot = shared + threadIdx.x / 32 * kWarpSlotFloats;
    warp.StoreValues(t, part, kStride, slot);
    if (part == 0) warp.StoreSums(t, slot + kShifts, slot + kSums);
    __syncthreads();
    const int heads = min(kTileHeads, group - t * kTileHeads);
    for (int i = threadIdx.x; i < heads * kColumns; i += 32 * kWarps) {
      const int head = i / kColumns, dim = i % kColumns * 4;
      MergedValues merged = {make_float4(0, 0, 0, 0), kNoShift, 0};
#pragma unroll
      for (int w = 0; w < kWarps; ++w) merged.shift = fmaxf(merged.shift, shared[w * kWarpSlotFloats + kShifts + head]);
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const float* from = shared + w * kWarpSlotFloats;
        const float weight = Exp2(from[kShifts + head] - merged.shift);
        merged.sum = fmaf(weight, from[kSums + head], merged.sum);
        AddScaled(weight, *reinterpret_cast<const float4*>(from + head * kStride + dim), &merged.values);
      }
      sink(t * kTileHeads + head, part * kMergeDims + dim, merged);
    }
  }
}

// Shared memory of CombinePartials.
template <int kDim, int kWarps>
struct CombineShared {
  float values[kWarps][kDim];
  float shifts[kWarps], sums[kWarps];
};

// Combines the num_splits partials of one (row, KV head), `stride` floats apart, into the output row of the group's
// query head `head`: a warp takes every kWarps-th, then the warps merge in order. Latency is all it costs, so what a
// warp needs is on its way at once. Every thread of a block of kWarps warps calls it; at most 32 * kWarps splits.
template <class T, int kDim, int kWarps>
__device__ void CombinePartials(const float* partials, int64_t stride, int num_splits, int group, int head,
                                CombineShared<kDim, kWarps>* shared, T* out) {
  constexpr int kAtOnce = 6;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int count = (num_splits - warp + kWarps - 1) / kWarps;  // the warp's; lane l holds the weight of its l-th
  const auto partial = [&](int i) { return partials + (warp + i * kWarps) * stride; };
  const int column = head * kDim + (lane * 4 < kDim ? lane * 4 : 0);
  float4 values[kAtOnce];
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    values[k] = make_float4(0, 0, 0, 0);
    if (k < count) values[k] = *reinterpret_cast<const float4*>(partial(k) + column);
  }
  const float shift = lane < count ? partial(lane)[group * kDim + head] : kNoShift;
  float sum = lane < count ? partial(lane)[group * kDim + group + head] : 0.0f;

  float largest = shift;
  for (int offset = 16; offset > 0; offset /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, offset));
  const float weight = Exp2(shift - largest);
  sum *= weight;
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  float4 total = make_float4(0, 0, 0, 0);
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) AddScaled(__shfl_sync(~0u, weight, k), values[k], &total);
  for (int k = kAtOnce; k < count; ++k) {
    AddScaled(__shfl_sync(~0u, weight, k), *reinterpret_cast<const float4*>(partial(k) + column), &total);
  }
  if (lane * 4 < kDim) *reinterpret_cast<float4*>(&shared->values[warp][lane * 4]) = total;
  if (lane == 0) {
    shared->shifts[warp] = largest;
    shared->sums[warp] = sum;
  }
  __syncthreads();

  if (threadIdx.x >= kDim) return;
  largest = kNoShift;
  for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, shared->shifts[w]);
  float value = 0;
  sum = 0;
  for (int w = 0; w < kWarps; ++w) {
    const float scale = Exp2(shared->shifts[w] - largest);
    sum = fmaf(scale, shared->sums[w], sum);
    value = fmaf(scale, shared->values[w][threadIdx.x], value);
  }
  RoundTo(sum == 0 ? 0.0f : value / sum, out + threadIdx.x);
}

}  // namespace spotlight::kernels::cuda
