// The two passes of retrieval_quality over a row: dense attention with the sums of its softmax, then every token's
// mass. A block owns one split of one row and KV head, and reads every key and value once for the whole group.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/cuda/quality_page.cuh"
#include "kernels/cuda/quality_workspace.cuh"

namespace spotlight::kernels::cuda {

// One block's share of a row: tokens [begin, end) of one KV head.
struct Split {
  int32_t row, kv_head, index, begin, end;
  Competition competition;
};

// Grid (max_splits, Hkv, rows). Empty for rows that do not compete.
__device__ Split SplitOfBlock(const QualityArgs& args) {
  Split split = {};
  split.row = blockIdx.z;
  split.kv_head = blockIdx.y;
  split.index = blockIdx.x;
  split.competition = args.CompetitionOfRow(split.row);
  if (split.competition.num_select == 0) return split;
  const int32_t context_len = args.op.context_len[split.row], tokens = QualitySplitTokens(context_len);
  split.begin = min(split.index * tokens, context_len);
  split.end = min(split.begin + tokens, context_len);
  return split;
}

// Attention of the whole group to one split: partial sums, and clean histograms for what follows.
template <class T, int kDim>
__global__ void __launch_bounds__(kPageThreads, 2) AttendSplit(const QualityArgs args) {
  using Share = PageShare<kDim>;
  constexpr int kWarps = kPageThreads / 32, kWarpHeads = kMaxGroup / kWarps;
  constexpr int kStride = kMaxGroup + 4;                  // keeps float4 aligned and spreads a column over the banks
  __shared__ __align__(16) float query[kMaxGroup][kDim];  // later the block's sums
  __shared__ __align__(16) float weights[2][kPageTokens][kStride];
  __shared__ __align__(16) float scales[2][kMaxGroup];
  const Split split = SplitOfBlock(args);
  if (split.begin >= split.end) return;
  const int group = args.group, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const QualityRow workspace = args.Row(split.row);
  if (split.index == 0) {
    int32_t* histograms = workspace.histograms + int64_t{split.kv_head} * kMaxDigits * kDigitBins;
    for (int i = threadIdx.x; i < args.NumDigits() * kDigitBins; i += kPageThreads) histograms[i] = 0;
  }
  LoadQueries<Compute<T>, kDim>(args, split.row, split.kv_head, query);
  __syncthreads();

  const int value_lane = threadIdx.x % Share::kValueLanes, value_slot = threadIdx.x / Share::kValueLanes;
  float sums[kMaxGroup][2] = {};
  float largest[kWarpHeads], total[kWarpHeads] = {};  // of heads warp, warp + kWarps
  for (int i = 0; i < kWarpHeads; ++i) largest[i] = -INFINITY;

  for (int32_t token = split.begin, side = 0; token < split.end; token += kPageTokens, side ^= 1) {
    const HeadPage<T> page = PageOf<T>(args, split.row, split.kv_head, token);
    const int32_t count = min(kPageTokens, split.end - token);
    float keys[Share::kKeyTokens][8];
    Values<T, kDim> values;
    LoadKeys<T, kDim>(page, count, keys);
    LoadValues<T, kDim>(page, count, &values);

    const int slot = LogitToken<kDim>();
    for (int h = 0; h < group; ++h) {
      const float logit = DotHead<kDim>(query[h], keys);
      if (threadIdx.x % Share::kSumLanes == 0) weights[side][slot][h] = slot < count ? logit : -INFINITY;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kWarpHeads; ++i) {
      const int h = warp + i * kWarps;
      if (h >= group) continue;
      float *first = &weights[side][lane][h], *second = &weights[side][lane + 32][h];
      float page_largest = fmaxf(*first, *second);
      for (int offset = 16; offset > 0; offset /= 2) {
        page_largest = fmaxf(page_largest, __shfl_xor_sync(~0u, page_largest, offset));
      }
      const float new_largest = fmaxf(largest[i], page_largest), scale = exp2f(largest[i] - new_largest);
      *first = exp2f(*first - new_largest);
      *second = exp2f(*second - new_largest);
      float page_total = *first + *second;
      for (int offset = 16; offset > 0; offset /= 2) page_total += __shfl_xor_sync(~0u, page_total, offset);
      total[i] = total[i] * scale + page_total;
      largest[i] = new_largest;
      if (lane == 0) scales[side][h] = scale;
    }
    __syncthreads();
    // Four heads at a time; what the last four hold past the group is never written.
#pragma unroll
    for (int h = 0; h < kMaxGroup; h += 4) {
      if (h >= group) continue;
      const float4 scale = *reinterpret_cast<const float4*>(&scales[side][h]);
      const float factors[4] = {scale.x, scale.y, scale.z, scale.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sums[h + j][0] *= factors[j];
        sums[h + j][1] *= factors[j];
      }
#pragma unroll
      for (int i = 0; i < Share::kValueTokens; ++i) {
        const float4 weight = *reinterpret_cast<const float4*>(&weights[side][value_slot * Share::kValueTokens + i][h]);
        const float four[4] = {weight.x, weight.y, weight.z, weight.w};
        const float2 value = values.At(i);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sums[h + j][0] = fmaf(four[j], value.x, sums[h + j][0]);
          sums[h + j][1] = fmaf(four[j], value.y, sums[h + j][1]);
        }
      }
    }
  }

  // Slots add up in order.
  __syncthreads();
  for (int slot = 0; slot < Share::kValueSlots; ++slot) {
    if (slot == value_slot) {
#pragma unroll
      for (int h = 0; h < kMaxGroup; ++h) {
        if (h >= group) continue;
        float* sum = &query[h][value_lane * 2];
        sum[0] = slot == 0 ? sums[h][0] : sum[0] + sums[h][0];
        sum[1] = slot == 0 ? sums[h][1] : sum[1] + sums[h][1];
      }
    }
    __syncthreads();
  }
  const int64_t head_stride = int64_t{args.max_splits} * (kDim + 2);
  float* partial = workspace.partials + split.kv_head * group * head_stride + split.index * (kDim + 2);
  for (int i = threadIdx.x; i < group * kDim; i += kPageThreads) {
    partial[i / kDim * head_stride + i % kDim] = query[i / kDim][i % kDim];
  }
#pragma unroll
  for (int i = 0; i < kWarpHeads; ++i) {
    const int h = warp + i * kWarps;
    if (h >= group || lane != 0) continue;
    partial[h * head_stride + kDim] = largest[i];
    partial[h * head_stride + kDim + 1] = total[i];
  }
}

// Grid (Hq, rows), block (D): merges a head's splits in order.
static __global__ void MergeSplits(const QualityArgs args) {
  __shared__ float weights[kMaxQualitySplits];
  const int head = blockIdx.x, row = blockIdx.y, d = threadIdx.x, dim = args.op.head_dim;
  if (args.CompetitionOfRow(row).num_select == 0) return;
  const int32_t context_len = args.op.context_len[row];
  const int num_splits = (context_len + QualitySplitTokens(context_len) - 1) / QualitySplitTokens(context_len);
  const QualityRow workspace = args.Row(row);
  const float* partials = workspace.partials + int64_t{head} * args.max_splits * (dim + 2);
  for (int s = d; s < num_splits; s += dim) weights[s] = partials[int64_t{s} * (dim + 2) + dim];
  __syncthreads();
  float largest = -INFINITY;
  for (int s = 0; s < num_splits; ++s) largest = fmaxf(largest, weights[s]);
  __syncthreads();
  for (int s = d; s < num_splits; s += dim) weights[s] = exp2f(weights[s] - largest);
  __syncthreads();
  float value = 0, sum = 0;
#pragma unroll 8
  for (int s = 0; s < num_splits; ++s) {
    const float* partial = partials + int64_t{s} * (dim + 2);
    value = fmaf(weights[s], partial[d], value);
    sum = fmaf(weights[s], partial[dim + 1], sum);
  }
  workspace.dense[head * dim + d] = value / sum;
  if (d == 0) {
    workspace.softmax[head * 2] = largest;
    workspace.softmax[head * 2 + 1] = 1.0f / sum;
  }
}

// Every token's mass, and the sums of a split.
template <class T, int kDim>
__global__ void __launch_bounds__(kPageThreads, 3) WeighSplit(const QualityArgs args) {
  using Share = PageShare<kDim>;
  __shared__ __align__(16) float query[kMaxGroup][kDim];
  __shared__ float softmax[kMaxGroup][2];
  __shared__ double warp_sums[kPageThreads / 32][2];
  const Split split = SplitOfBlock(args);
  if (split.begin >= split.end) return;
  const QualityRow workspace = args.Row(split.row);
  LoadQueries<Compute<T>, kDim>(args, split.row, split.kv_head, query);
  if (threadIdx.x < args.group * 2) {
    softmax[threadIdx.x / 2][threadIdx.x % 2] = workspace.softmax[split.kv_head * args.group * 2 + threadIdx.x];
  }
  __syncthreads();

  float* mass_of = workspace.mass + int64_t{split.kv_head} * args.op.max_context;
  const Competition& competition = split.competition;
  double candidate_mass = 0, total_mass = 0;
  for (int32_t token = split.begin; token < split.end; token += kPageTokens) {
    float keys[Share::kKeyTokens][8];
    LoadKeys<T, kDim>(PageOf<T>(args, split.row, split.kv_head, token), min(kPageTokens, split.end - token), keys);
    float mass = 0;
    for (int h = 0; h < args.group; ++h) {
      mass = fmaf(exp2f(DotHead<kDim>(query[h], keys) - softmax[h][0]), softmax[h][1], mass);
    }
    const int32_t mine = token + LogitToken<kDim>();
    if (threadIdx.x % Share::kSumLanes == 0 && mine < split.end) {
      mass_of[mine] = mass;
      total_mass += mass;
      if (mine >= competition.begin && mine < competition.begin + competition.count) candidate_mass += mass;
    }
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    candidate_mass += __shfl_xor_sync(~0u, candidate_mass, offset);
    total_mass += __shfl_xor_sync(~0u, total_mass, offset);
  }
  if (threadIdx.x % 32 == 0) {
    warp_sums[threadIdx.x / 32][0] = candidate_mass;
    warp_sums[threadIdx.x / 32][1] = total_mass;
  }
  __syncthreads();
  if (threadIdx.x < 2) {
    double sum = 0;
    for (int warp = 0; warp < kPageThreads / 32; ++warp) sum += warp_sums[warp][threadIdx.x];
    workspace.mass_sums[(int64_t{split.kv_head} * args.max_splits + split.index) * 2 + threadIdx.x] = sum;
  }
}

}  // namespace spotlight::kernels::cuda
