#include "kernels/cuda/chunk_attention.h"

#include <algorithm>

#include "kernels/cuda/attend_merge.cuh"
#include "kernels/cuda/chunk_warp.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/page_ring.cuh"

namespace spotlight::kernels::cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kBlockRows = 32 * kWarps;
static_assert(kBlockRows == kChunkBlockRows);
constexpr int kTokens = kPageTokens;  // of a tile
// Two blocks for each of an H200's multiprocessors: one's products hide the other's exponentials.
constexpr int kMaxItems = 2 * 132, kMaxSplits = 32 * kWarps;
constexpr int kMinSplitTokens = 256;
constexpr float kLog2E = 1.44269504f;

struct ChunkArgs {
  const void* q;
  const void* kv;
  const int32_t* page_table;
  const int32_t* context_len;
  void* out;
  float* partials;  // [Hkv, row_blocks, max_splits] partials of kBlockRows rows (attend_merge.cuh)
  int num_tokens, num_kv_heads, group, row_blocks, max_splits;
  float scale_log2;
};

int RowBlocks(int32_t num_tokens, int group) {
  return (num_tokens * group + kBlockRows - 1) / kBlockRows;
}
int SplitsFor(int row_blocks, int num_kv_heads) {
  return std::max(1, std::min(kMaxSplits, kMaxItems / (row_blocks * num_kv_heads)));
}

// Of all queries; every thread of the block.
__device__ int32_t LongestContext(const ChunkArgs& args) {
  __shared__ int32_t longest_of_warp[kWarps];
  int32_t longest = 0;
  for (int t = threadIdx.x; t < args.num_tokens; t += kThreads) longest = max(longest, args.context_len[t]);
  for (int offset = 16; offset > 0; offset /= 2) longest = max(longest, __shfl_xor_sync(~0u, longest, offset));
  if (threadIdx.x % 32 == 0) longest_of_warp[threadIdx.x / 32] = longest;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) longest = max(longest, longest_of_warp[w]);
  return longest;
}

__device__ int NumSplits(const ChunkArgs& args, int32_t longest) {
  return max(1, min(args.max_splits, (longest + kMinSplitTokens - 1) / kMinSplitTokens));
}

// Grid (row_blocks, Hkv, max_splits): blocks that read the same keys are neighbours.
template <class T, int kDim>
__global__ void __launch_bounds__(kThreads, 2) AttendChunk(const ChunkArgs args) {
  using Ring = PageRing<4 * kDim, kTokens, kWarps>;
  using Warp = ChunkWarp<T, kDim, Ring, kTokens>;
  extern __shared__ __align__(16) char dynamic_shared[];
  __shared__ typename Ring::Signals signals;
  const int row_block = blockIdx.x, kv_head = blockIdx.y, split = blockIdx.z;
  const int32_t longest = LongestContext(args);
  const int num_splits = NumSplits(args, longest);
  if (split >= num_splits) return;
  const int32_t tiles = (longest + kTokens - 1) / kTokens;
  const int32_t share = tiles / num_splits, rest = tiles % num_splits;
  const int32_t first_tile = split * share + min(split, rest), end_tile = first_tile + share + (split < rest ? 1 : 0);

  char* const queries = dynamic_shared;
  const int64_t head_bytes = int64_t{kPageTokens} * 4 * kDim;
  Ring ring(dynamic_shared + kBlockRows * Warp::kQueryStride, &signals,
            {static_cast<const char*>(args.kv) + kv_head * head_bytes, args.page_table, args.num_kv_heads * head_bytes,
             longest},
            first_tile, end_tile);
  constexpr int kChunks = kDim / 8;
  const int first_row = row_block * kBlockRows, rows = args.num_tokens * args.group;
  for (int i = threadIdx.x; i < kBlockRows * kChunks; i += kThreads) {
    const int row = first_row + i / kChunks;
    const int64_t place =
        int64_t{row / args.group} * args.num_kv_heads * args.group + kv_head * args.group + row % args.group;
    *reinterpret_cast<uint4*>(queries + i / kChunks * Warp::kQueryStride + i % kChunks * 16) =
        row < rows ? static_cast<const uint4*>(args.q)[place * kChunks + i % kChunks] : make_uint4(0, 0, 0, 0);
  }
  __syncthreads();

  const int warp_row = threadIdx.x / 32 * Warp::kRows;
  Warp warp(queries + warp_row * Warp::kQueryStride, args.scale_log2, [&](int row) {
    const int token = (first_row + warp_row + row) / args.group;
    return token < args.num_tokens ? args.context_len[token] : 0;
  });
  for (int32_t tile = first_tile; tile < end_tile; ++tile) {
    const char* const slot = ring.Wait(tile);
    ring.ClearAbsent(tile);
    warp.Add(slot, tile * kTokens);
    ring.Leave(tile);
  }
  AllowNext();
  float* const partial = args.partials + (int64_t{kv_head * args.row_blocks + row_block} * args.max_splits + split) *
                                             PartialFloats(kBlockRows, kDim);
  warp.Store(partial + warp_row * kDim, partial + kBlockRows * kDim + warp_row,
             partial + kBlockRows * (kDim + 1) + warp_row);
}

// Grid (Hq, T): the splits of one query head of one query.
template <class T, int kDim>
__global__ void __launch_bounds__(kThreads) CombineChunk(const ChunkArgs args) {
  __shared__ __align__(16) CombineShared<kDim, kWarps> shared;
  const int token = blockIdx.y, kv_head = blockIdx.x / args.group;
  const int row = token * args.group + blockIdx.x % args.group;
  T* const out = static_cast<T*>(args.out) + (int64_t{token} * gridDim.x + blockIdx.x) * kDim;
  const int num_splits = NumSplits(args, LongestContext(args));
  WaitForPrevious();
  if (args.context_len[token] == 0) {
    if (threadIdx.x < kDim) RoundTo(0.0f, out + threadIdx.x);
    return;
  }
  constexpr int kStride = PartialFloats(kBlockRows, kDim);
  const int64_t first = int64_t{kv_head * args.row_blocks + row / kBlockRows} * args.max_splits;
  CombinePartials(args.partials + first * kStride, kStride, num_splits, kBlockRows, row % kBlockRows, &shared, out);
}

template <class T, int kDim>
void LaunchShape(const ChunkArgs& args, LaunchSequence* sequence) {
  using Ring = PageRing<4 * kDim, kTokens, kWarps>;
  const auto attend = AttendChunk<T, kDim>;
  constexpr int kSharedBytes =
      kBlockRows * ChunkWarp<T, kDim, Ring, kTokens>::kQueryStride + Ring::kSlots * Ring::kSlotBytes;
  sequence->Check(cudaFuncSetAttribute(attend, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  sequence->Launch(attend, dim3(args.row_blocks, args.num_kv_heads, args.max_splits), dim3(kThreads), kSharedBytes,
                   args);
  LaunchOptions combine;
  combine.overlap_previous = true;
  sequence->LaunchWith(combine, CombineChunk<T, kDim>, dim3(args.num_kv_heads * args.group, args.num_tokens),
                       dim3(kThreads), 0, args);
}

template <class T>
void LaunchTyped(int head_dim, const ChunkArgs& args, LaunchSequence* sequence) {
  head_dim == 64 ? LaunchShape<T, 64>(args, sequence) : LaunchShape<T, 128>(args, sequence);
}

}  // namespace

size_t ChunkAttentionWorkspaceBytes(int32_t max_tokens, int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim) {
  const int row_blocks = RowBlocks(max_tokens, num_q_heads / num_kv_heads);
  const size_t items = std::max(kMaxItems, row_blocks * num_kv_heads);
  return items * PartialFloats(kBlockRows, head_dim) * sizeof(float);
}

int ChunkAttention(const ChunkAttentionParams& params) {
  LaunchSequence sequence(params.execution.stream);
  ChunkArgs args = {};
  args.q = params.q;
  args.kv = params.pages.kv;
  args.page_table = params.page_table;
  args.context_len = params.context_len;
  args.out = params.out;
  args.partials = static_cast<float*>(params.workspace);
  args.num_tokens = params.num_tokens;
  args.num_kv_heads = params.num_kv_heads;
  args.group = params.num_q_heads / params.num_kv_heads;
  args.row_blocks = RowBlocks(params.num_tokens, args.group);
  args.max_splits = SplitsFor(args.row_blocks, args.num_kv_heads);
  args.scale_log2 = params.softmax_scale * kLog2E;
  if (params.dtype == DType::kBF16) {
    LaunchTyped<__nv_bfloat16>(params.head_dim, args, &sequence);
  } else {
    LaunchTyped<__half>(params.head_dim, args, &sequence);
  }
  return sequence.error();
}

}  // namespace spotlight::kernels::cuda
