// One launch: score, agree on the cut, attend, combine. SparseDecodeKernel lists the stages.
#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/sparse_args.cuh"
#include "kernels/cuda/sparse_block.cuh"
#include "kernels/cuda/sparse_plan.h"

namespace spotlight::kernels::cuda {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr int kMinRingBytes = 17 << 9;      // also holds a tile of 16 tokens
constexpr int kUsefulRingBytes = 25 << 10;  // three tiles, scores' room included

// Stages:
//   1. every warp scores its units' candidates, blocks add their histograms to the row's;
//   2. with the prefilter, scores were of word 0: each block finds the row's cut for kPrefilterFactor * K, scores in
//      full what is left, and adds those histograms;
//   3. each block finds the row's cut for K, its warps attend to what they own above it;
//   4. blocks combine the units of whole rows.
// Between them stand barriers among the blocks of one (row, KV head) only.
template <class T, int kDim, int kHeadTiles>
__global__ void __launch_bounds__(kSparseThreads, 1) SparseDecodeKernel(const __grid_constant__ SparseArgs args) {
  extern __shared__ uint4 dynamic_words[];
  __shared__ SparseShared shared;
  char* const dynamic = reinterpret_cast<char*>(dynamic_words);
  SparseBlock block(args, dynamic, &shared);
  if (args.prefilter || args.hash_words == 1) {
    block.Score<1>(args.prefilter ? args.prefix : args.codes, args.prefilter ? args.prefix_histogram : args.histogram,
                   args.prefilter ? args.num_prefix_bins : args.num_bins);
  } else if (args.hash_words == 2) {
    block.Score<2>(args.codes, args.histogram, args.num_bins);
  } else if (args.hash_words == 4) {
    block.Score<4>(args.codes, args.histogram, args.num_bins);
  } else {
    block.Score<8>(args.codes, args.histogram, args.num_bins);
  }
  WaitForPrevious();
  block.MarkStage(0);
  block.Select<T, kDim, kHeadTiles>();
  block.MarkStage(1);
  block.Combine<T, kDim, kHeadTiles>(dynamic);
  block.MarkStage(2);
}

struct DeviceLimits {
  int32_t num_sms = 0, shared_bytes = 0;
};

// Of the current device.
DeviceLimits Limits() {
  int device = 0;
  cudaGetDevice(&device);
  DeviceLimits limits;
  cudaDeviceGetAttribute(&limits.num_sms, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&limits.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  return limits;
}

template <class T>
void Launch(const LaunchOptions& options, const SparseArgs& args, int32_t head_dim, int32_t blocks, int32_t shared,
            LaunchSequence* sequence) {
  const bool wide = args.num_q_heads / args.num_kv_heads > kTileHeads;
  const auto kernel = head_dim == 64 ? (wide ? SparseDecodeKernel<T, 64, 2> : SparseDecodeKernel<T, 64, 1>)
                                     : (wide ? SparseDecodeKernel<T, 128, 2> : SparseDecodeKernel<T, 128, 1>);
  sequence->Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  sequence->LaunchWith(options, kernel, dim3(blocks), dim3(kSparseThreads), shared, args);
}

}  // namespace

size_t SparseDecodeWorkspaceBytes(int32_t max_rows, int32_t max_context, int32_t num_q_heads, int32_t num_kv_heads,
                                  int32_t head_dim) {
  return SparseWorkspaceOf(max_rows, max_context, num_q_heads, num_kv_heads, head_dim, Limits().num_sms).total;
}

int SparseDecode(const SparseDecodeParams& params) {
  LaunchSequence sequence(params.execution.stream);
  const DeviceLimits limits = Limits();
  const SparseWorkspace parts = SparseWorkspaceOf(params.num_rows, params.max_context, params.num_q_heads,
                                                  params.num_kv_heads, params.head_dim, limits.num_sms);
  char* const workspace = static_cast<char*>(params.workspace);
  int32_t total_weight = params.top_plane_weight;
  for (int j = 0; j + 1 < params.num_planes; ++j) total_weight += 1 << j;

  SparseArgs args = {};
  args.num_q_heads = params.num_q_heads;
  args.num_kv_heads = params.num_kv_heads;
  args.hash_words = params.hash_words;
  args.num_planes = params.num_planes;
  args.top_plane_weight = params.top_plane_weight;
  args.scale_log2 = params.softmax_scale * kLog2E;
  args.prefilter = params.prefilter;
  args.kv = params.pages.kv;
  args.codes = params.pages.codes;
  args.prefix = params.pages.prefix;
  args.max_pages = params.max_pages;
  args.sink_tokens = params.sink_tokens;
  args.recent_tokens = params.recent_tokens;
  args.max_select = params.max_select;
  args.stages = params.stage_seconds;
  args.max_units = MaxUnits(limits.num_sms, params.num_kv_heads);
  args.num_prefix_bins = 32 * total_weight + 1;
  args.num_bins = 32 * params.hash_words * total_weight + 1;
  args.row_pages = RowPages(params.max_context);
  args.counters = reinterpret_cast<uint32_t*>(workspace + parts.counters);
  args.prefix_histogram = reinterpret_cast<int32_t*>(workspace + parts.prefix_histogram);
  args.histogram = reinterpret_cast<int32_t*>(workspace + parts.histogram);
  args.ties = reinterpret_cast<uint8_t*>(workspace + parts.ties);
  args.scores = reinterpret_cast<uint16_t*>(workspace + parts.scores);
  args.masks = reinterpret_cast<uint16_t*>(workspace + parts.masks);
  args.chosen = reinterpret_cast<uint8_t*>(workspace + parts.chosen);
  args.partials = reinterpret_cast<float*>(workspace + parts.partials);
  args.shifts = reinterpret_cast<float*>(workspace + parts.shifts);
  args.sums = reinterpret_cast<float*>(workspace + parts.sums);

  // Shared memory of a warp: its units' scores as far as they fit, the rest for codes on their way.
  const int32_t launch_rows = LaunchRows(params.num_rows, params.max_context, params.num_kv_heads, limits.num_sms);
  const int32_t units = NumUnits(params.max_context, args.max_units);
  const int32_t warps = limits.num_sms * kSparseWarps;
  const int32_t unit_pages = (NumPages(params.max_context) + units - 1) / units;
  const int64_t warp_units = (int64_t{launch_rows} * params.num_kv_heads * units + warps - 1) / warps;
  args.histogram_bytes = ((args.num_bins + 1) * 4 + 15) / 16 * 16;
  const int32_t page_bytes = 4 * kPageTokens * (params.prefilter ? 1 : params.hash_words);
  const int32_t available = limits.shared_bytes - static_cast<int32_t>(sizeof(SparseShared)) - 1024;
  const int32_t warp_bytes = ((available - args.histogram_bytes) / kSparseWarps - kQueueBytes) / 16 * 16;
  const int32_t unit_bytes = ScoreBytes(unit_pages) + MaskBytes(unit_pages);
  const int64_t resident = std::min<int64_t>(warp_units, (warp_bytes - kMinRingBytes) / unit_bytes);
  args.mask_bytes = static_cast<int32_t>(resident * MaskBytes(unit_pages));
  args.score_bytes = static_cast<int32_t>(resident * ScoreBytes(unit_pages));
  const int32_t useful_ring = std::max(64 * page_bytes, kUsefulRingBytes - args.score_bytes);
  args.ring_bytes = std::min(warp_bytes - args.mask_bytes - args.score_bytes, useful_ring);
  const int32_t shared = args.histogram_bytes + kSparseWarps * WarpBytes(args);

  LaunchOptions options;
  options.overlap_previous = params.overlap_encode;
  // Overlapping launches cannot be cooperative. Their blocks are resident together all the same: there is at most one
  // for each multiprocessor, and the kernel before ends without them.
  options.cooperative = !params.overlap_encode;
  for (int32_t first = 0; first < params.num_rows; first += launch_rows) {
    const int64_t first_head = int64_t{first} * params.num_kv_heads;
    const int64_t offset = int64_t{first} * params.num_q_heads * params.head_dim * SizeOf(params.dtype);
    args.num_rows = std::min(launch_rows, params.num_rows - first);
    args.q = static_cast<const char*>(params.q) + offset;
    args.out = static_cast<char*>(params.out) + offset;
    args.planes = params.planes + first_head * params.num_planes * params.hash_words;
    args.page_table = params.page_table + int64_t{first} * params.max_pages;
    args.context_len = params.context_len + first;
    args.num_select = params.num_select + first;
    args.selected = params.selected == nullptr ? nullptr : params.selected + first_head * params.max_select;
    args.num_selected = params.num_selected == nullptr ? nullptr : params.num_selected + first_head;
    switch (params.dtype) {
      case DType::kF32:
        Launch<float>(options, args, params.head_dim, limits.num_sms, shared, &sequence);
        break;
      case DType::kBF16:
        Launch<__nv_bfloat16>(options, args, params.head_dim, limits.num_sms, shared, &sequence);
        break;
      case DType::kF16:
        Launch<__half>(options, args, params.head_dim, limits.num_sms, shared, &sequence);
        break;
    }
    options.cooperative = true;  // a launch after a launch of this kernel shares its workspace
    options.overlap_previous = false;
  }
  return sequence.error();
}

}  // namespace spotlight::kernels::cuda
