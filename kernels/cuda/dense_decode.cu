#include <algorithm>

#include "kernels/cuda/attend_merge.cuh"
#include "kernels/cuda/dense_schedule.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/tile_ring.cuh"

namespace spotlight::kernels::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kCombineWarps = 8;
constexpr float kLog2E = 1.44269504f;

struct DenseArgs {
  PagedRows rows;
  const void* q;  // of the pass's rows, like context_len and out
  const int32_t* context_len;
  void* out;
  float* partials;  // [rows, Hkv, max_splits] partials
  int32_t num_rows, group, max_splits;
  int32_t slots;  // of a warp's ring
  float scale_log2;
};

// T: of the pages. Persistent: block b takes items b, b + gridDim.x, ... of the schedule; its warps fill their rings
// across splits.
template <class T, int kDim, int kHeadTiles>
__global__ void __launch_bounds__(kThreads, 1) AttendPages(const DenseArgs args) {
  using Ring = TileRing<T, kDim>;
  using Q = Compute<T>;
  extern __shared__ __align__(16) char dynamic_shared[];
  __shared__ __align__(16) float merge_shared[kWarps * kWarpSlotFloats];
  __shared__ DenseSchedule schedule;
  const int warp_index = threadIdx.x / 32;
  AllowNext();
  Ring ring(dynamic_shared + warp_index * (args.slots * Ring::kSlotBytes), args.slots);
  schedule.Build(args.context_len, args.num_rows, args.rows.num_kv_heads);

  FillCursor<T, kDim, kWarps> ahead(args.rows, schedule);
  const auto fill = [&] {
    if (ahead.done()) return ring.Fill(nullptr, nullptr, 0);
    ring.Fill(ahead.tokens(), ahead.scales(), ahead.count());
    ahead.Advance();
  };
  for (int slot = 0; slot < args.slots; ++slot) {
    // All but the newest token was there before the previous kernel began.
    if (!ahead.done() && ahead.newest()) WaitForPrevious();
    fill();
  }
  WaitForPrevious();

  int item = blockIdx.x, rank = 0;
  if (item >= schedule.num_items()) return;
  Split split = schedule.At(item, args.rows.num_kv_heads, &rank);
  const auto row_head = [&] { return int64_t{split.row} * args.rows.num_kv_heads + split.kv_head; };
  const Q* q = static_cast<const Q*>(args.q);
  AttendWarp<T, kDim, kHeadTiles> warp;
  warp.LoadQuery(q + row_head() * args.group * kDim, args.group, args.scale_log2);
  warp.Reset();
  for (;;) {
    for (int32_t tile = split.first_tile + warp_index; tile < split.end_tile; tile += kWarps) {
      ring.Take(min(kTileTokens, split.context_len - tile * kTileTokens), &warp, fill);
    }
    const int64_t done_head = row_head();
    const int num_splits = split.num_splits, index = split.index;
    item += gridDim.x;
    const bool more = item < schedule.num_items();
    if (more) {
      split = schedule.At(item, args.rows.num_kv_heads, &rank);
      warp.LoadQuery(q + row_head() * args.group * kDim, args.group, args.scale_log2);
    }
    if (num_splits == 1) {
      MergeWarps<kDim, kHeadTiles, kWarps>(
          warp, args.group, merge_shared,
          OutputSink<Q, kDim>{static_cast<Q*>(args.out) + done_head * args.group * kDim});
    } else {
      float* partial = args.partials + (done_head * args.max_splits + index) * PartialFloats(args.group, kDim);
      MergeWarps<kDim, kHeadTiles, kWarps>(warp, args.group, merge_shared, PartialSink<kDim>{partial, args.group});
    }
    if (!more) return;
    warp.Reset();
    __syncthreads();  // merge_shared is free
  }
}

// Grid (Hq, rows): one query head's splits into its output.
template <class T, int kDim>
__global__ void __launch_bounds__(32 * kCombineWarps) CombineSplits(const DenseArgs args) {
  static_assert(kDenseSlots <= 32 * kCombineWarps);
  __shared__ __align__(16) CombineShared<kDim, kCombineWarps> shared;
  const int row = blockIdx.y, kv_head = blockIdx.x / args.group, head = blockIdx.x % args.group;
  const int num_splits = MaxSplits(args.context_len[row], args.rows.num_kv_heads);
  WaitForPrevious();
  if (num_splits == 1) return;  // written by AttendPages
  const int64_t row_head = int64_t{row} * args.rows.num_kv_heads + kv_head, stride = PartialFloats(args.group, kDim);
  CombinePartials(args.partials + row_head * args.max_splits * stride, stride, num_splits, args.group, head, &shared,
                  static_cast<T*>(args.out) + (row_head * args.group + head) * kDim);
}

struct DeviceLimits {
  int num_processors = 0, block_shared_bytes = 0;
};

DeviceLimits LimitsOfDevice(LaunchSequence* sequence) {
  DeviceLimits limits;
  int device = 0;
  sequence->Check(cudaGetDevice(&device));
  sequence->Check(cudaDeviceGetAttribute(&limits.num_processors, cudaDevAttrMultiProcessorCount, device));
  sequence->Check(cudaDeviceGetAttribute(&limits.block_shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return limits;
}

template <class T, int kDim, int kHeadTiles>
void LaunchShape(DenseArgs args, const LaunchOptions& options, const DeviceLimits& limits, LaunchSequence* sequence) {
  using Ring = TileRing<T, kDim>;
  constexpr int kStaticBytes =
      kWarps * kWarpSlotFloats * static_cast<int>(sizeof(float)) + static_cast<int>(sizeof(DenseSchedule)) + 64;
  const int room = (limits.block_shared_bytes - kStaticBytes) / (kWarps * Ring::kSlotBytes);
  args.slots = std::max(1, std::min(Ring::kMaxSlots, room));
  const int shared_bytes = kWarps * args.slots * Ring::kSlotBytes;
  const int64_t most_items = int64_t{args.num_rows} * args.rows.num_kv_heads * args.max_splits;
  const int num_blocks = static_cast<int>(std::min<int64_t>(limits.num_processors, most_items));
  const auto attend = AttendPages<T, kDim, kHeadTiles>;
  sequence->Check(cudaFuncSetAttribute(attend, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  sequence->LaunchWith(options, attend, dim3(num_blocks), dim3(kThreads), shared_bytes, args);
  if (args.max_splits == 1) return;
  LaunchOptions combine;
  combine.overlap_previous = true;
  sequence->LaunchWith(combine, CombineSplits<Compute<T>, kDim>,
                       dim3(args.rows.num_kv_heads * args.group, args.num_rows), dim3(32 * kCombineWarps), 0, args);
}

template <class T>
void LaunchTyped(int head_dim, const DenseArgs& args, const LaunchOptions& options, const DeviceLimits& limits,
                 LaunchSequence* sequence) {
  const bool one_tile = args.group <= kTileHeads;
  if (head_dim == 64) {
    one_tile ? LaunchShape<T, 64, 1>(args, options, limits, sequence)
             : LaunchShape<T, 64, 2>(args, options, limits, sequence);
  } else {
    one_tile ? LaunchShape<T, 128, 1>(args, options, limits, sequence)
             : LaunchShape<T, 128, 2>(args, options, limits, sequence);
  }
}

}  // namespace

size_t DenseDecodeWorkspaceBytes(int32_t max_rows, int32_t max_context, int32_t num_q_heads, int32_t num_kv_heads,
                                 int32_t head_dim) {
  const size_t row_heads = static_cast<size_t>(std::min(max_rows, kDensePassRows)) * num_kv_heads;
  return row_heads * MaxSplits(max_context, num_kv_heads) * PartialFloats(num_q_heads / num_kv_heads, head_dim) *
         sizeof(float);
}

int DenseDecode(const DenseDecodeParams& params) {
  LaunchSequence sequence(params.execution.stream);
  const DeviceLimits limits = LimitsOfDevice(&sequence);
  LaunchOptions options;
  DenseArgs args = {};
  args.rows.kv = params.pages.kv;
  args.rows.kv_scale = params.pages.kv_scale;
  args.rows.page_table = params.page_table;
  args.rows.rows_per_table = params.rows_per_table;
  args.rows.max_pages = params.max_pages;
  args.partials = static_cast<float*>(params.workspace);
  args.rows.num_kv_heads = params.num_kv_heads;
  args.group = params.num_q_heads / params.num_kv_heads;
  args.max_splits = MaxSplits(params.max_context, params.num_kv_heads);
  args.scale_log2 = params.softmax_scale * kLog2E;
  for (int32_t first = 0; first < params.num_rows; first += kDensePassRows) {
    const int64_t offset = int64_t{first} * params.num_q_heads * params.head_dim * SizeOf(params.dtype);
    args.q = static_cast<const char*>(params.q) + offset;
    args.rows.first_row = first;
    args.context_len = params.context_len + first;
    args.out = static_cast<char*>(params.out) + offset;
    args.num_rows = std::min(kDensePassRows, params.num_rows - first);
    options.overlap_previous = params.overlap_encode && first == 0;
    if (params.pages.kv_scale != nullptr) {
      LaunchTyped<__nv_fp8_e4m3>(params.head_dim, args, options, limits, &sequence);
      continue;
    }
    switch (params.dtype) {
      case DType::kF32:
        LaunchTyped<float>(params.head_dim, args, options, limits, &sequence);
        break;
      case DType::kBF16:
        LaunchTyped<__nv_bfloat16>(params.head_dim, args, options, limits, &sequence);
        break;
      case DType::kF16:
        LaunchTyped<__half>(params.head_dim, args, options, limits, &sequence);
        break;
    }
  }
  return sequence.error();
}

}  // namespace spotlight::kernels::cuda
