// The partial results of a (row, KV head)'s runs become its output, in an order that depends on their number only.
#pragma once

#include <cstdint>

#include "kernels/cuda/attend_primitives.cuh"

namespace spotlight::kernels::cuda {

// Fewest dimensions that a warp combines.
inline constexpr int kCombinedDims = 8;

// kParts times kCombinedDims dimensions of one query head, by one warp. values: those of the first run, run_stride
// floats to the next run; shifts and sums: the head's, heads_stride apart. A dimension's order of sums does not depend
// on kParts. Every lane must call.
template <int kParts, class T>
__device__ void CombineRuns(const float* values, int64_t run_stride, const float* shifts, const float* sums,
                            int32_t heads_stride, int32_t num_runs, T* out) {
  constexpr int kLanes = kCombinedDims / 4, kGroups = 32 / kLanes, kAhead = 4;
  const int group = threadIdx.x % 32 / kLanes, dim = threadIdx.x % kLanes * 4;
  float shift = kNoShift, sum = 0, total[kParts][4] = {};
#pragma unroll 1
  for (int32_t first = 0; first < num_runs; first += kAhead * kGroups) {
    float own_shifts[kAhead], own_sums[kAhead];
    float4 own[kAhead][kParts];
    float largest = shift;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int32_t run = first + i * kGroups + group;
      own_shifts[i] = kNoShift;
      own_sums[i] = 0;
#pragma unroll
      for (int part = 0; part < kParts; ++part) own[i][part] = make_float4(0, 0, 0, 0);
      if (run >= num_runs) continue;
      own_shifts[i] = __ldcg(shifts + int64_t{run} * heads_stride);
      own_sums[i] = __ldcg(sums + int64_t{run} * heads_stride);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        own[i][part] = __ldcg(reinterpret_cast<const float4*>(values + run * run_stride + part * kCombinedDims + dim));
      }
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) largest = fmaxf(largest, own_shifts[i]);
#pragma unroll
    for (int lanes = kLanes; lanes < 32; lanes *= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, lanes));
    const float scale = Exp2(shift - largest);
    shift = largest;
    sum *= scale;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (float& x : total[part]) x *= scale;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const float weight = Exp2(own_shifts[i] - shift);
      sum = fmaf(weight, own_sums[i], sum);
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
        total[part][0] = fmaf(weight, own[i][part].x, total[part][0]);
        total[part][1] = fmaf(weight, own[i][part].y, total[part][1]);
        total[part][2] = fmaf(weight, own[i][part].z, total[part][2]);
        total[part][3] = fmaf(weight, own[i][part].w, total[part][3]);
      }
    }
  }
#pragma unroll
  for (int lanes = kLanes; lanes < 32; lanes *= 2) {
    sum += __shfl_xor_sync(~0u, sum, lanes);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (float& x : total[part]) x += __shfl_xor_sync(~0u, x, lanes);
    }
  }
  if (group != 0) return;
  const float scale = sum == 0 ? 0.0f : 1.0f / sum;
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
#pragma unroll
    for (int k = 0; k < 4; ++k) RoundTo(total[part][k] * scale, out + part * kCombinedDims + dim + k);
  }
}

}  // namespace spotlight::kernels::cuda
