// Exact selection of the K-th largest rank key over many blocks: a histogram per digit, from the top. Atomics count
// integers only, so their order does not matter; floats are summed in a fixed order.
#pragma once

#include <cstdint>

#include "kernels/cuda/quality_workspace.cuh"

namespace spotlight::kernels::cuda {

inline constexpr int kCountThreads = 256;

// Sum over the block, in an order of its own; valid in thread 0. Every thread must call.
template <int kThreads>
__device__ double BlockSum(double x) {
  __shared__ double warp_sums[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  __syncthreads();  // the previous call's reader is done
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = x;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0) {
    for (int warp = 0; warp < kThreads / 32; ++warp) sum += warp_sums[warp];
  }
  return sum;
}

// Follows the digit that `histogram` was taken of. Every thread of the block must call; all get the result.
__device__ inline RankState FollowDigit(const RankState& state, const int32_t* histogram) {
  constexpr int kBins = kDigitBins / kCountThreads;  // a thread's, from the top
  __shared__ int32_t warp_sums[kCountThreads / 32];
  __shared__ RankState next;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int32_t owned[kBins], sum = 0;
#pragma unroll
  for (int i = 0; i < kBins; ++i) {
    owned[i] = histogram[kDigitBins - 1 - (static_cast<int>(threadIdx.x) * kBins + i)];
    sum += owned[i];
  }
  int32_t over = sum;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int32_t before = __shfl_up_sync(~0u, over, offset);
    if (lane >= offset) over += before;
  }
  if (lane == 31) warp_sums[warp] = over;
  __syncthreads();
  over -= sum;
  for (int w = 0; w < warp; ++w) over += warp_sums[w];
#pragma unroll
  for (int i = 0; i < kBins; ++i) {
    if (over < state.rank && over + owned[i] >= state.rank) {
      const uint64_t digit = kDigitBins - 1 - (threadIdx.x * kBins + i);
      next.prefix = state.prefix << kDigitBits | digit;
      next.rank = state.rank - over;
    }
    over += owned[i];
  }
  __syncthreads();
  return next;
}

// Grid (NumCounts, Hkv, rows): the histogram of one digit among the keys that share the digits before it.
static __global__ void __launch_bounds__(kCountThreads) CountDigit(const QualityArgs args, int digit) {
  __shared__ int32_t bins[kDigitBins];
  const int32_t kv_head = blockIdx.y, row = blockIdx.z;
  const Competition competition = args.CompetitionOfRow(row);
  const int32_t begin = blockIdx.x * kCountTokens;
  if (competition.num_select == 0 || begin >= competition.count) return;
  const QualityRow workspace = args.Row(row);
  RankState* const states = workspace.states + kv_head * (kMaxDigits + 1);
  int32_t* const histograms = workspace.histograms + int64_t{kv_head} * kMaxDigits * kDigitBins;
  RankState state;
  state.rank = competition.num_select;
  if (digit > 0) state = FollowDigit(states[digit - 1], histograms + (digit - 1) * kDigitBins);
  if (blockIdx.x == 0 && threadIdx.x == 0) states[digit] = state;

  for (int bin = threadIdx.x; bin < kDigitBins; bin += kCountThreads) bins[bin] = 0;
  __syncthreads();
  const float* mass = workspace.mass + int64_t{kv_head} * args.op.max_context;
  const int shift = kDigitBits * (args.NumDigits() - 1 - digit);
  const int32_t end = min(begin + kCountTokens, competition.count);
#pragma unroll 8
  for (int32_t i = begin + static_cast<int32_t>(threadIdx.x); i < end; i += kCountThreads) {
    const int32_t token = competition.begin + i;
    const uint64_t key = args.RankKey(mass[token], token) >> shift;
    if (key >> kDigitBits == state.prefix) atomicAdd(&bins[key % kDigitBins], 1);
  }
  __syncthreads();
  for (int bin = threadIdx.x; bin < kDigitBins; bin += kCountThreads) {
    if (bins[bin] != 0) atomicAdd(&histograms[digit * kDigitBins + bin], bins[bin]);
  }
}

// Grid (NumCounts, Hkv, rows), after the last digit: oracle B's worst key, and a block's share of its mass.
static __global__ void __launch_bounds__(kCountThreads) SumOracle(const QualityArgs args) {
  const int32_t kv_head = blockIdx.y, row = blockIdx.z;
  const Competition competition = args.CompetitionOfRow(row);
  const int32_t begin = blockIdx.x * kCountTokens;
  if (competition.num_select == 0 || begin >= competition.count) return;
  const QualityRow workspace = args.Row(row);
  RankState* const states = workspace.states + kv_head * (kMaxDigits + 1);
  const int last = args.NumDigits() - 1;
  const RankState worst =
      FollowDigit(states[last], workspace.histograms + (int64_t{kv_head} * kMaxDigits + last) * kDigitBins);
  if (blockIdx.x == 0 && threadIdx.x == 0) states[last + 1] = worst;
  const float* mass = workspace.mass + int64_t{kv_head} * args.op.max_context;
  const int32_t end = min(begin + kCountTokens, competition.count);
  double sum = 0;
#pragma unroll 8
  for (int32_t i = begin + static_cast<int32_t>(threadIdx.x); i < end; i += kCountThreads) {
    const int32_t token = competition.begin + i;
    if (args.RankKey(mass[token], token) >= worst.prefix) sum += mass[token];
  }
  sum = BlockSum<kCountThreads>(sum);
  if (threadIdx.x == 0) workspace.oracle_sums[int64_t{kv_head} * args.NumCounts() + blockIdx.x] = sum;
}

}  // namespace spotlight::kernels::cuda
