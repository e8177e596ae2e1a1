// The partial results of a (row, KV head)'s runs become its output, in an order that depends on their number only.
#pragma once

#include <cstdint>

#include "kernels/cuda/attend_tile.cuh"
#include "kernels/cuda/sparse_args.cuh"

namespace spotlight::kernels::cuda {

// Runs are summed in kCombineGroups interleaved groups, four to a warp, then the groups pairwise and in order.
inline constexpr int kCombineGroups = 4 * kSparseWarps;

struct CombineShared {
  float4 values[kSparseWarps][32];
  float warp_values[kSparseWarps], warp_sums[kSparseWarps];
};

__device__ inline float4 AddFour(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
__device__ inline float4 ShuffleFour(float4 x, int mask) {
  return make_float4(__shfl_xor_sync(~0u, x.x, mask), __shfl_xor_sync(~0u, x.y, mask), __shfl_xor_sync(~0u, x.z, mask),
                     __shfl_xor_sync(~0u, x.w, mask));
}

// Dimensions [slice * kDim / kSlices, ...) of one query head. values: the head's row of the first run, run_stride
// floats to the next run; shifts and sums: the same, heads_stride apart. weights [2 * num_runs] in shared memory.
// Every thread of the block calls; synchronises.
template <class T, int kDim, int kSlices>
__device__ void CombineHead(const float* values, int64_t run_stride, const float* shifts, const float* sums,
                            int32_t heads_stride, int32_t num_runs, int slice, float* weights, CombineShared* shared,
                            T* out) {
  constexpr int kLanes = kDim / 4 / kSlices;  // of a group
  constexpr int kParallel = 32 / kLanes;      // groups that a warp sums side by side
  constexpr int kRounds = 4 / kParallel;
  constexpr int kAhead = 2;  // runs of a group whose values are on their way together
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const float* from = values + (slice * kLanes + lane % kLanes) * 4;
  const auto load = [&](int32_t first, float4(&ahead)[kAhead]) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int32_t u = first + i * kCombineGroups;
      ahead[i] =
          u < num_runs ? __ldcg(reinterpret_cast<const float4*>(from + u * run_stride)) : make_float4(0, 0, 0, 0);
    }
  };
  // The first values come with the weights, not after them.
  float4 ahead[kAhead];
  load(4 * warp + lane / kLanes, ahead);

  float largest = kNoShift;
#pragma unroll 1
  for (int32_t u = threadIdx.x; u < num_runs; u += kSparseThreads) {
    const float shift = __ldcg(shifts + int64_t{u} * heads_stride);
    weights[num_runs + u] = __ldcg(sums + int64_t{u} * heads_stride);
    weights[u] = shift;
    largest = fmaxf(largest, shift);
  }
  for (int offset = 16; offset > 0; offset /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, offset));
  if (lane == 0) shared->warp_values[warp] = largest;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kSparseWarps; ++w) largest = fmaxf(largest, shared->warp_values[w]);
  float sum = 0;
#pragma unroll 1
  for (int32_t u = threadIdx.x; u < num_runs; u += kSparseThreads) {
    const float weight = Exp2(weights[u] - largest);
    weights[u] = weight;
    sum = fmaf(weight, weights[num_runs + u], sum);
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  if (lane == 0) shared->warp_sums[warp] = sum;
  __syncthreads();

  float4 total[kRounds];
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int group = 4 * warp + round * kParallel + lane / kLanes;
    float4 acc = make_float4(0, 0, 0, 0);
#pragma unroll 1
    for (int32_t first = group; first < num_runs; first += kAhead * kCombineGroups) {
      if (first != group || round > 0) load(first, ahead);
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int32_t u = first + i * kCombineGroups;
        const float weight = u < num_runs ? weights[u] : 0.0f;
        acc.x = fmaf(weight, ahead[i].x, acc.x);
        acc.y = fmaf(weight, ahead[i].y, acc.y);
        acc.z = fmaf(weight, ahead[i].z, acc.z);
        acc.w = fmaf(weight, ahead[i].w, acc.w);
      }
    }
    if (kParallel > 1) acc = AddFour(acc, ShuffleFour(acc, kLanes));
    if (kParallel > 2) acc = AddFour(acc, ShuffleFour(acc, 2 * kLanes));
    total[round] = acc;
  }
  float4 all = total[0];
  if (kRounds == 2) all = AddFour(total[0], total[1 % kRounds]);
  if (kRounds == 4)
    all = AddFour(AddFour(total[0], total[1 % kRounds]), AddFour(total[2 % kRounds], total[3 % kRounds]));
  if (lane < kLanes) shared->values[warp][lane] = all;
  __syncthreads();
  if (threadIdx.x < kLanes) {
    float4 result = shared->values[0][threadIdx.x];
    float denominator = shared->warp_sums[0];
#pragma unroll
    for (int w = 1; w < kSparseWarps; ++w) {
      result = AddFour(result, shared->values[w][threadIdx.x]);
      denominator += shared->warp_sums[w];
    }
    const float scale = denominator == 0 ? 0.0f : 1.0f / denominator;
    const float scaled[4] = {result.x * scale, result.y * scale, result.z * scale, result.w * scale};
    for (int k = 0; k < 4; ++k) RoundTo(scaled[k], out + (slice * kLanes + threadIdx.x) * 4 + k);
  }
}

}  // namespace spotlight::kernels::cuda
