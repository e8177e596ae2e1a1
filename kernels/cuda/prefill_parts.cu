#include "kernels/cuda/prefill_parts.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/numeric.cuh"

namespace spotlight::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVectorElements = 8;  // of two bytes
constexpr int kUnrolled = 4;

// Grid (pages, Hkv), block (kThreads): a block copies one head's tokens of one page, which lie in one piece.
__global__ void __launch_bounds__(kThreads) GatherPageOfHead(const GatherPagesParams params) {
  const int pieces = params.head_dim / kVectorElements;  // of a key or a value
  const int64_t first = params.begin / kPageTokens + blockIdx.x;
  const int64_t tokens = params.end - params.begin;
  const int64_t page = params.page_table[first];
  const uint4* const source =
      static_cast<const uint4*>(params.pages.kv) + (page * params.num_kv_heads + blockIdx.y) * kPageTokens * 2 * pieces;
  uint4* const keys = static_cast<uint4*>(params.keys) + blockIdx.y * tokens * pieces;
  uint4* const values = static_cast<uint4*>(params.values) + blockIdx.y * tokens * pieces;
  const int count = kPageTokens * 2 * pieces;
  for (int base = threadIdx.x; base < count; base += kUnrolled * kThreads) {
    uint4 vectors[kUnrolled];
#pragma unroll
    for (int i = 0; i < kUnrolled; ++i) {
      const int index = base + i * kThreads;
      if (index < count) vectors[i] = source[index];
    }
#pragma unroll
    for (int i = 0; i < kUnrolled; ++i) {
      const int index = base + i * kThreads;
      const int slot = index / (2 * pieces), piece = index % (2 * pieces);
      const int64_t token = first * kPageTokens + slot - params.begin;
      if (index >= count || token < 0 || token >= tokens) continue;
      uint4* const to = piece < pieces ? keys + piece : values + (piece - pieces);
      to[token * pieces] = vectors[i];
    }
  }
}

// The same of pages in e4m3, whose values become bf16. A thread widens 8 bytes.
__global__ void __launch_bounds__(kThreads) WidenPageOfHead(const GatherPagesParams params) {
  const int pieces = params.head_dim / kVectorElements;  // of a key or a value
  const int64_t first = params.begin / kPageTokens + blockIdx.x;
  const int64_t tokens = params.end - params.begin;
  const int64_t page = params.page_table[first];
  const int64_t entry = (page * params.num_kv_heads + blockIdx.y) * kPageTokens;
  const uint2* const source = static_cast<const uint2*>(params.pages.kv) + entry * 2 * pieces;
  const float* const scales = params.pages.kv_scale + entry * 2;
  uint4* const keys = static_cast<uint4*>(params.keys) + blockIdx.y * tokens * pieces;
  uint4* const values = static_cast<uint4*>(params.values) + blockIdx.y * tokens * pieces;
#pragma unroll 4
  for (int index = threadIdx.x; index < kPageTokens * 2 * pieces; index += kThreads) {
    const int row = index / pieces, piece = index % pieces;
    const int64_t token = first * kPageTokens + row / 2 - params.begin;
    if (token < 0 || token >= tokens) continue;
    uint4* const to = row % 2 == 0 ? keys : values;
    to[token * pieces + piece] = WidenEight(source[index], scales[row]);
  }
}

template <typename T>
struct alignas(16) Vector {
  T at[kVectorElements];
};

// Grid (enough), block (kThreads): a thread makes a vector of one head of one token.
template <typename T>
__global__ void __launch_bounds__(kThreads) MergeParts(const MergeAttentionParams params) {
  const int pieces = params.head_dim / kVectorElements;
  const int64_t index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t row = index / pieces;  // of [T, Hq]
  const bool active = row < int64_t{params.num_tokens} * params.num_q_heads;
  const int64_t token = row / params.num_q_heads, head = row % params.num_q_heads;
  const int64_t place = head * params.num_tokens + token;
  float lse[kMaxAttentionParts], highest = -INFINITY;
  Vector<T> parts[kMaxAttentionParts];
#pragma unroll
  for (int i = 0; i < kMaxAttentionParts; ++i) {
    if (!active || i >= params.num_parts) continue;
    lse[i] = params.parts[i].lse[place];
    parts[i] = static_cast<const Vector<T>*>(params.parts[i].out)[index];
    highest = fmaxf(highest, lse[i]);
  }
  float sum = 0, merged[kVectorElements] = {};
#pragma unroll
  for (int i = 0; i < kMaxAttentionParts; ++i) {
    if (!active || i >= params.num_parts) continue;
    const float weight = expf(lse[i] - highest);
    sum += weight;
    for (int j = 0; j < kVectorElements; ++j) merged[j] = fmaf(weight, ToFloat(parts[i].at[j]), merged[j]);
  }
  // The threads of a head lie in one warp: all of them have read the parts' lse before one may overwrite it.
  __syncwarp();
  if (!active) return;
  Vector<T> out;
  for (int j = 0; j < kVectorElements; ++j) RoundTo(merged[j] / sum, &out.at[j]);
  static_cast<Vector<T>*>(params.out)[index] = out;
  if (params.lse != nullptr && index % pieces == 0) params.lse[place] = highest + logf(sum);
}

}  // namespace

int GatherPages(const GatherPagesParams& params) {
  LaunchSequence sequence(params.execution.stream);
  const int pages = (params.end - 1) / kPageTokens - params.begin / kPageTokens + 1;
  const auto gather = params.pages.kv_scale != nullptr ? WidenPageOfHead : GatherPageOfHead;
  sequence.Launch(gather, dim3(pages, params.num_kv_heads), dim3(kThreads), 0, params);
  return sequence.error();
}

int MergeAttention(const MergeAttentionParams& params) {
  LaunchSequence sequence(params.execution.stream);
  const int64_t vectors = int64_t{params.num_tokens} * params.num_q_heads * params.head_dim / kVectorElements;
  const dim3 grid(static_cast<unsigned>((vectors + kThreads - 1) / kThreads)), block(kThreads);
  if (params.dtype == DType::kBF16) {
    sequence.Launch(MergeParts<__nv_bfloat16>, grid, block, 0, params);
  } else {
    sequence.Launch(MergeParts<__half>, grid, block, 0, params);
  }
  return sequence.error();
}

}  // namespace spotlight::kernels::cuda
