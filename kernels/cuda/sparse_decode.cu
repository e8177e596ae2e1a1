// The host's side of sparse_decode: launches, and how a block's shared memory is laid out.
#include <algorithm>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/sparse_args.cuh"
#include "kernels/cuda/sparse_block.cuh"
#include "kernels/cuda/sparse_launch.h"
#include "kernels/cuda/sparse_plan.h"

namespace spotlight::kernels::cuda {
namespace {

constexpr float kLog2E = 1.44269504f;
constexpr int32_t kMinRingBytes = 17 << 9, kUsefulRingBytes = 64 << 10;  // of a warp
// Pages of codes that a warp asks for while the kernel before runs, besides those it has room for.
constexpr int32_t kPrefetchPages = 8;
// What EncodeDecode's block takes of a multiprocessor's shared memory with encoders of the default recipe and groups of
// 7, besides its rows; with more rows than kMaxEncoderRows it has more blocks than one for each.
constexpr int32_t kEncoderBytes = 67 << 10, kEncoderRowBytes = 2320, kMaxEncoderRows = 16;

struct DeviceLimits {
  int num_sms = 0;
  bool overlaps = false;  // programmatic dependent launch
  // Shared memory of a block, what the system keeps not counted; of a multiprocessor; what the system keeps for a
  // block.
  int shared_bytes = 0, sm_shared_bytes = 0, reserved_bytes = 0;
};

DeviceLimits LimitsOf(int device) {
  DeviceLimits limits;
  int major = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  limits.overlaps = major >= 9;
  cudaDeviceGetAttribute(&limits.num_sms, cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&limits.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  cudaDeviceGetAttribute(&limits.sm_shared_bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  cudaDeviceGetAttribute(&limits.reserved_bytes, cudaDevAttrReservedSharedMemoryPerBlock, device);
  return limits;
}

DeviceLimits Limits() {
  static const std::vector<DeviceLimits> all = [] {
    int count = 0;
    cudaGetDeviceCount(&count);
    std::vector<DeviceLimits> limits;
    for (int device = 0; device < count; ++device) limits.push_back(LimitsOf(device));
    return limits;
  }();
  int device = 0;
  cudaGetDevice(&device);
  return device < static_cast<int>(all.size()) ? all[device] : DeviceLimits();
}

int32_t WarpStateBytes(int32_t head_dim, int32_t group) {
  return (group > kTileHeads ? 2 : 1) * kTileHeads * (head_dim + 6) * 4;
}

// A tile's slot, or what a warp leaves to be merged if that is larger.
int32_t SlotBytes(const SparseDecodeParams& params) {
  const bool e4m3 = params.pages.kv_scale != nullptr;
  const int32_t groups = 4 * (4 * 2 * params.head_dim * (e4m3 ? 1 : 2) + 32);
  const int32_t tile = e4m3 ? groups + 8 * kTileTokens : params.dtype == DType::kF32 ? 0 : groups;
  return std::max(tile, WarpStateBytes(params.head_dim, params.num_q_heads / params.num_kv_heads));
}

// A block that takes no more finds room beside one of EncodeDecode's, and begins while that still runs.
int32_t CompanionBytes(const DeviceLimits& limits, int32_t rows) {
  if (!limits.overlaps || rows > kMaxEncoderRows) return limits.shared_bytes;
  return limits.sm_shared_bytes - 2 * limits.reserved_bytes - kEncoderBytes - kEncoderRowBytes * rows;
}

// Most runs of a block, for any lengths up to max_context.
int32_t BlockRuns(const SparseDecodeParams& params, int32_t num_sms, int32_t launch_rows, int32_t max_runs) {
  const int64_t runs = int64_t{launch_rows} * params.num_kv_heads * NumRuns(params.max_context, max_runs);
  return static_cast<int32_t>((runs + num_sms - 1) / num_sms);
}

// Lays out a block's shared memory, for any lengths up to max_context; returns its size.
int32_t LayOutShared(const SparseDecodeParams& params, const DeviceLimits& limits, int32_t block_runs, bool many_runs,
                     SparseArgs* args) {
  const int32_t runs = NumRuns(params.max_context, args->max_runs);
  const int32_t run_pages = (NumPages(params.max_context) + runs - 1) / runs;
  args->run_bytes = (block_runs * static_cast<int32_t>(sizeof(Run)) + 127) / 128 * 128;
  args->entry_bytes = many_runs ? kMaxEntries * 4 : 0;
  args->histogram_bytes = 16 * kSparseThreads;
  while (args->histogram_bytes < (args->num_bins + 1) * 4) args->histogram_bytes *= 2;
  // Histograms take a third of the memory at most.
  args->max_teams_log2 = TeamsLog2(block_runs);
  while (args->max_teams_log2 > 0 && args->histogram_bytes << args->max_teams_log2 > limits.shared_bytes / 3) {
    --args->max_teams_log2;
  }
  const int32_t teams = std::min(1 << args->max_teams_log2, block_runs);
  args->counting_bytes = std::max(args->histogram_bytes * teams, kMaxEntries * 4);
  const int32_t fixed = args->run_bytes + args->entry_bytes + args->counting_bytes + kAlwaysBytes;
  const auto known = static_cast<int32_t>(sizeof(SparseShared));
  const int32_t limit = limits.shared_bytes - known;
  const int32_t page_bytes = kScoredPageBytes;
  const int64_t block_pages = (int64_t{block_runs} * run_pages + 31) / 32 * 32;
  const auto most_scores = static_cast<int32_t>(std::min<int64_t>(block_pages, 1 << 16));
  // Beside the kernel before, unless that would leave scores without a place.
  int32_t total = std::min(limit, CompanionBytes(limits, params.num_rows) - known);
  if (!params.overlap_encode || fixed + most_scores * page_bytes + kSparseWarps * kMinRingBytes > total) total = limit;
  const int32_t spare = std::max(0, total - fixed - kSparseWarps * kMinRingBytes);
  args->score_pages = std::min(most_scores, spare / page_bytes / 32 * 32);
  args->ring_bytes = std::min((total - fixed - args->score_pages * page_bytes) / kSparseWarps, kUsefulRingBytes);
  args->ring_bytes = args->ring_bytes / 128 * 128;
  const int32_t slot_bytes = SlotBytes(params);
  const int32_t tiles = (total - args->run_bytes - kMaxEntries * 4) / kSparseWarps / slot_bytes;
  args->tile_ring_bytes = std::min(tiles, kGatherSlots) * slot_bytes;
  return std::max(fixed + args->score_pages * page_bytes + kSparseWarps * args->ring_bytes,
                  args->run_bytes + kMaxEntries * 4 + kSparseWarps * args->tile_ring_bytes);
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
  args.kv_scale = params.pages.kv_scale;
  args.codes = params.pages.codes;
  args.prefix = params.pages.prefix;
  args.max_pages = params.max_pages;
  args.sink_tokens = params.sink_tokens;
  args.recent_tokens = params.recent_tokens;
  args.max_select = params.max_select;
  args.stages = params.stage_seconds;
  args.max_runs = MaxRuns(limits.num_sms, params.num_kv_heads);
  args.num_prefix_bins = 32 * total_weight + 1;
  args.num_bins = 32 * params.hash_words * total_weight + 1;
  args.num_prefetch_pages = params.overlap_encode ? kPrefetchPages : 0;
  args.row_pages = RowPages(params.max_context);
  args.counters = reinterpret_cast<uint32_t*>(workspace + parts.counters);
  args.prefix_histogram = reinterpret_cast<int32_t*>(workspace + parts.prefix_histogram);
  args.histogram = reinterpret_cast<int32_t*>(workspace + parts.histogram);
  args.prefix_columns = reinterpret_cast<int32_t*>(workspace + parts.prefix_columns);
  args.columns = reinterpret_cast<int32_t*>(workspace + parts.columns);
  args.scores = reinterpret_cast<uint16_t*>(workspace + parts.scores);
  args.lists = reinterpret_cast<uint16_t*>(workspace + parts.lists);
  args.partials = reinterpret_cast<float*>(workspace + parts.partials);
  args.shifts = reinterpret_cast<float*>(workspace + parts.shifts);
  args.sums = reinterpret_cast<float*>(workspace + parts.sums);
  const int32_t launch_rows = LaunchRows(params.num_rows, params.max_context, params.num_kv_heads, limits.num_sms);
  const int32_t block_runs = BlockRuns(params, limits.num_sms, std::min(launch_rows, params.num_rows), args.max_runs);
  const bool many_runs = block_runs >= kMinRunsAlone;
  const int32_t shared = LayOutShared(params, limits, block_runs, many_runs, &args);

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
    const auto launch = [&](auto* launcher) {
      launcher(options, args, params.head_dim, many_runs, limits.num_sms, shared, &sequence);
    };
    if (params.pages.kv_scale != nullptr) {
      launch(LaunchSparse<__nv_fp8_e4m3>);
    } else if (params.dtype == DType::kF32) {
      launch(LaunchSparse<float>);
    } else if (params.dtype == DType::kBF16) {
      launch(LaunchSparse<__nv_bfloat16>);
    } else {
      launch(LaunchSparse<__half>);
    }
    args.num_prefetch_pages = 0;
    args.adds_stages = true;
    options.cooperative = true;  // a launch after a launch of this kernel shares its workspace
    options.overlap_previous = false;
  }
  return sequence.error();
}

}  // namespace spotlight::kernels::cuda
