#include "kernels/cuda/attention.h"
#include "kernels/cuda/numeric.cuh"
#include "kernels/token_list.h"

namespace spotlight::kernels::cuda {
namespace {

constexpr int kWarps = 4;
// Query heads that share a block's loads of K and V.
constexpr int kBlockHeads = 4;
constexpr float kLog2E = 1.44269504f;

__device__ int32_t SplitTokens(int32_t num_tokens) {
  const int32_t share = (num_tokens + kMaxSplits - 1) / kMaxSplits;
  return max(64, (share + 63) / 64 * 64);
}

__device__ TokenList ListOf(const AttentionArgs& args, int32_t row, int32_t kv_head) {
  const int32_t context_len = args.context_len[row];
  if (args.num_select == nullptr) return AllTokens(context_len);
  const Competition competition =
      CompetitionOf(context_len, args.num_select[row], args.sink_tokens, args.recent_tokens);
  const int32_t* selected = args.selected + (int64_t{row} * args.num_kv_heads + kv_head) * args.selected_stride;
  return TokensOf(competition, selected, context_len);
}

__device__ float WarpSum(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}

// Grid (kMaxSplits, Hkv * head chunks, rows), block (32, kWarps). A block owns one split of one row and up to
// kBlockHeads heads of one group; a warp takes every kWarps-th token, a lane kDim / 32 dimensions.
template <class T, int kDim>
__global__ void AttendSplits(const AttentionArgs args) {
  constexpr int kElements = kDim / 32;
  const int group = args.num_q_heads / args.num_kv_heads;
  const int chunks = (group + kBlockHeads - 1) / kBlockHeads;
  const int row = blockIdx.z, kv_head = blockIdx.y / chunks;
  const int first_head = kv_head * group + blockIdx.y % chunks * kBlockHeads;
  const int num_heads = min(kBlockHeads, (kv_head + 1) * group - first_head);
  const TokenList tokens = ListOf(args, row, kv_head);
  const int32_t split_tokens = SplitTokens(tokens.size());
  const int32_t begin = blockIdx.x * split_tokens, end = min(begin + split_tokens, tokens.size());
  if (begin >= end) return;

  const int lane = threadIdx.x, warp = threadIdx.y;
  const T* q = static_cast<const T*>(args.q) + (int64_t{row} * args.num_q_heads + first_head) * kDim;
  float query[kBlockHeads][kElements], values[kBlockHeads][kElements] = {};
  float largest[kBlockHeads], sum[kBlockHeads] = {};
  for (int h = 0; h < kBlockHeads; ++h) {
    largest[h] = -INFINITY;
    for (int e = 0; e < kElements; ++e) {
      query[h][e] = h < num_heads ? ToFloat(q[h * kDim + lane * kElements + e]) * args.softmax_scale * kLog2E : 0.0f;
    }
  }

  const int32_t* table = args.page_table + int64_t{(args.first_row + row) / args.rows_per_table} * args.max_pages;
  for (int32_t position = begin + warp; position < end; position += kWarps) {
    const int32_t token = tokens[position];
    const int64_t page = table[token / kPageTokens];
    const int64_t entry = (page * args.num_kv_heads + kv_head) * kPageTokens + token % kPageTokens;
    const T* key = static_cast<const T*>(args.kv) + entry * 2 * kDim + lane * kElements;
    float k[kElements], v[kElements];
    for (int e = 0; e < kElements; ++e) {
      k[e] = ToFloat(key[e]);
      v[e] = ToFloat(key[kDim + e]);
    }
    for (int h = 0; h < kBlockHeads; ++h) {
      float dot = 0;
      for (int e = 0; e < kElements; ++e) dot = fmaf(query[h][e], k[e], dot);
      const float logit = WarpSum(dot);
      const float new_largest = fmaxf(largest[h], logit);
      const float scale = exp2f(largest[h] - new_largest), weight = exp2f(logit - new_largest);
      largest[h] = new_largest;
      sum[h] = sum[h] * scale + weight;
      for (int e = 0; e < kElements; ++e) values[h][e] = fmaf(weight, v[e], values[h][e] * scale);
    }
  }

  // Warps merge in order.
  __shared__ float shared_values[kWarps][kBlockHeads][kDim];
  __shared__ float shared_largest[kWarps][kBlockHeads], shared_sum[kWarps][kBlockHeads];
  for (int h = 0; h < kBlockHeads; ++h) {
    for (int e = 0; e < kElements; ++e) shared_values[warp][h][lane * kElements + e] = values[h][e];
    if (lane == 0) {
      shared_largest[warp][h] = largest[h];
      shared_sum[warp][h] = sum[h];
    }
  }
  __syncthreads();
  // A warp without tokens holds -inf and weighs nothing; the first warp always has one.
  for (int h = warp; h < num_heads; h += kWarps) {
    float block_largest = -INFINITY, block_sum = 0;
    for (int w = 0; w < kWarps; ++w) block_largest = fmaxf(block_largest, shared_largest[w][h]);
    float weights[kWarps];
    for (int w = 0; w < kWarps; ++w) {
      weights[w] = exp2f(shared_largest[w][h] - block_largest);
      block_sum += weights[w] * shared_sum[w][h];
    }
    const int64_t place = (int64_t{row} * args.num_q_heads + first_head + h) * kMaxSplits + blockIdx.x;
    float* partial = args.partials + place * (kDim + 2);
    for (int d = lane; d < kDim; d += 32) {
      float value = 0;
      for (int w = 0; w < kWarps; ++w) value = fmaf(weights[w], shared_values[w][h][d], value);
      partial[d] = value;
    }
    if (lane == 0) {
      partial[kDim] = block_largest;
      partial[kDim + 1] = block_sum;
    }
  }
}

// Grid (Hq, rows), block (D): merges a head's splits in order.
template <class T>
__global__ void CombineSplits(const AttentionArgs args) {
  const int head = blockIdx.x, row = blockIdx.y, d = threadIdx.x, dim = args.head_dim;
  const int32_t size = ListOf(args, row, head / (args.num_q_heads / args.num_kv_heads)).size();
  const int32_t num_splits = (size + SplitTokens(size) - 1) / SplitTokens(size);
  const int64_t row_head = int64_t{row} * args.num_q_heads + head;
  const float* partials = args.partials + row_head * kMaxSplits * (dim + 2);
  float largest = -INFINITY;
  for (int s = 0; s < num_splits; ++s) largest = fmaxf(largest, partials[s * (dim + 2) + dim]);
  float value = 0, sum = 0;
  for (int s = 0; s < num_splits; ++s) {
    const float* partial = partials + s * (dim + 2);
    const float weight = exp2f(partial[dim] - largest);
    value = fmaf(weight, partial[d], value);
    sum = fmaf(weight, partial[dim + 1], sum);
  }
  RoundTo(num_splits == 0 ? 0.0f : value / sum, static_cast<T*>(args.out) + row_head * dim + d);
}

template <class T>
void LaunchTyped(const AttentionArgs& args, int32_t num_rows, LaunchSequence* sequence) {
  const int group = args.num_q_heads / args.num_kv_heads;
  const dim3 grid(kMaxSplits, args.num_kv_heads * ((group + kBlockHeads - 1) / kBlockHeads), num_rows);
  sequence->Launch(args.head_dim == 64 ? AttendSplits<T, 64> : AttendSplits<T, 128>, grid, dim3(32, kWarps), 0, args);
  sequence->Launch(CombineSplits<T>, dim3(args.num_q_heads, num_rows), dim3(args.head_dim), 0, args);
}

}  // namespace

size_t PartialBytes(int32_t max_rows, int32_t num_q_heads, int32_t head_dim) {
  const size_t rows = max_rows < kPassRows ? max_rows : kPassRows;
  return rows * num_q_heads * kMaxSplits * (head_dim + 2) * sizeof(float);
}

void LaunchAttention(const AttentionArgs& args, int32_t num_rows, LaunchSequence* sequence) {
  switch (args.dtype) {
    case DType::kF32:
      return LaunchTyped<float>(args, num_rows, sequence);
    case DType::kBF16:
      return LaunchTyped<__nv_bfloat16>(args, num_rows, sequence);
    case DType::kF16:
      return LaunchTyped<__half>(args, num_rows, sequence);
  }
}

}  // namespace spotlight::kernels::cuda
