#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/quality_attend.cuh"
#include "kernels/cuda/quality_select.cuh"
#include "kernels/retrieval_metrics.h"

namespace spotlight::kernels::cuda {
namespace {

constexpr int kJudgeThreads = 1024;
// Blocks of a pass along the grid's z.
constexpr int32_t kMaxPassRows = 4096;

// Grid (Hkv, rows): compares the selection with oracle B and the output with the dense one.
__global__ void __launch_bounds__(kJudgeThreads) JudgeRow(const QualityArgs args) {
  const int32_t kv_head = blockIdx.x, row = blockIdx.y;
  const int64_t row_head = int64_t{row} * args.op.num_kv_heads + kv_head;
  const Competition competition = args.CompetitionOfRow(row);
  if (competition.num_select == 0) {
    if (threadIdx.x == 0) WriteNothingToJudge(args.op, row_head);
    return;
  }
  const QualityRow workspace = args.Row(row);
  const uint64_t worst = workspace.states[kv_head * (kMaxDigits + 1) + args.NumDigits()].prefix;
  const float* mass = workspace.mass + int64_t{kv_head} * args.op.max_context;
  const int thread = threadIdx.x;

  RetrievalSums sums;
  sums.num_oracle = competition.num_select;
  sums.num_selected = min(args.op.num_selected[row_head], args.op.max_select);
  const int32_t* selected = args.op.selected + row_head * args.op.max_select;
  double selected_mass = 0;
  int32_t num_hits = 0;
#pragma unroll 4
  for (int32_t i = thread; i < sums.num_selected; i += kJudgeThreads) {
    const int32_t token = selected[i];
    selected_mass += mass[token];
    num_hits += args.RankKey(mass[token], token) >= worst;
  }
  double error_squares = 0, dense_squares = 0;
  const int num_elements = args.group * args.op.head_dim;
  for (int i = thread; i < num_elements; i += kJudgeThreads) {
    const double dense = workspace.dense[kv_head * num_elements + i];
    const double error = LoadElement(args.op.sparse_out, args.op.dtype, row_head * num_elements + i) - dense;
    error_squares += error * error;
    dense_squares += dense * dense;
  }
  double oracle_mass = 0;
  const int num_counts = (competition.count + kCountTokens - 1) / kCountTokens;
  for (int i = thread; i < num_counts; i += kJudgeThreads) {
    oracle_mass += workspace.oracle_sums[int64_t{kv_head} * args.NumCounts() + i];
  }
  const int32_t context_len = args.op.context_len[row];
  const int num_splits = (context_len + QualitySplitTokens(context_len) - 1) / QualitySplitTokens(context_len);
  const double* split_sums = workspace.mass_sums + int64_t{kv_head} * args.max_splits * 2;
  sums.candidate_mass = BlockSum<kJudgeThreads>(thread < num_splits ? split_sums[thread * 2] : 0.0);
  sums.total_mass = BlockSum<kJudgeThreads>(thread < num_splits ? split_sums[thread * 2 + 1] : 0.0);
  sums.oracle_mass = BlockSum<kJudgeThreads>(oracle_mass);
  sums.selected_mass = BlockSum<kJudgeThreads>(selected_mass);
  sums.num_hits = static_cast<int32_t>(BlockSum<kJudgeThreads>(num_hits));
  sums.error_squares = BlockSum<kJudgeThreads>(error_squares);
  sums.dense_squares = BlockSum<kJudgeThreads>(dense_squares);
  if (thread == 0) WriteMetrics(sums, args.op, row_head);
}

int32_t MaxSplits(int32_t max_context) {
  return std::min(kMaxQualitySplits, (max_context + kMinQualitySplitTokens - 1) / kMinQualitySplitTokens);
}

QualityLayout LayoutOf(int32_t max_context, int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim) {
  size_t used = 0;
  const auto place = [&used](size_t bytes) {
    const size_t begin = used;
    used += (bytes + 255) / 256 * 256;
    return begin;
  };
  const size_t q_heads = num_q_heads, kv_heads = num_kv_heads, splits = MaxSplits(max_context);
  QualityLayout layout;
  place(kv_heads * max_context * sizeof(float));  // masses come first
  layout.mass_sums = place(kv_heads * splits * 2 * sizeof(double));
  layout.partials = place(q_heads * splits * (head_dim + 2) * sizeof(float));
  layout.dense = place(q_heads * head_dim * sizeof(float));
  layout.softmax = place(q_heads * 2 * sizeof(float));
  layout.histograms = place(kv_heads * kMaxDigits * kDigitBins * sizeof(int32_t));
  layout.states = place(kv_heads * (kMaxDigits + 1) * sizeof(RankState));
  layout.oracle_sums = place(kv_heads * ((size_t{0} + max_context + kCountTokens - 1) / kCountTokens) * sizeof(double));
  layout.row_bytes = used;
  return layout;
}

template <class T, int kDim>
void LaunchPass(const QualityArgs& args, int32_t rows, LaunchSequence* sequence) {
  const RetrievalQualityParams& op = args.op;
  const dim3 splits(args.max_splits, op.num_kv_heads, rows);
  sequence->Launch(AttendSplit<T, kDim>, splits, dim3(kPageThreads), 0, args);
  sequence->Launch(MergeSplits, dim3(op.num_q_heads, rows), dim3(kDim), 0, args);
  sequence->Launch(WeighSplit<T, kDim>, splits, dim3(kPageThreads), 0, args);
  const dim3 counts(args.NumCounts(), op.num_kv_heads, rows);
  for (int digit = 0; digit < args.NumDigits(); ++digit) {
    sequence->Launch(CountDigit, counts, dim3(kCountThreads), 0, args, digit);
  }
  sequence->Launch(SumOracle, counts, dim3(kCountThreads), 0, args);
  sequence->Launch(JudgeRow, dim3(op.num_kv_heads, rows), dim3(kJudgeThreads), 0, args);
}

template <class T>
void LaunchTyped(const QualityArgs& args, int32_t rows, LaunchSequence* sequence) {
  args.op.head_dim == 64 ? LaunchPass<T, 64>(args, rows, sequence) : LaunchPass<T, 128>(args, rows, sequence);
}

}  // namespace

size_t RetrievalQualityWorkspaceBytes(int32_t max_rows, int32_t max_context, int32_t num_q_heads, int32_t num_kv_heads,
                                      int32_t head_dim) {
  return max_rows * LayoutOf(max_context, num_q_heads, num_kv_heads, head_dim).row_bytes;
}

int RetrievalQuality(const RetrievalQualityParams& params) {
  LaunchSequence sequence(params.execution.stream);
  QualityArgs args = {};
  args.op = params;
  args.group = params.num_q_heads / params.num_kv_heads;
  args.max_splits = MaxSplits(params.max_context);
  for (args.index_bits = 1; (params.max_context - 1) >> args.index_bits != 0;) ++args.index_bits;
  args.layout = LayoutOf(params.max_context, params.num_q_heads, params.num_kv_heads, params.head_dim);
  const size_t held_rows = params.workspace_bytes / args.layout.row_bytes;
  const int32_t pass_rows = static_cast<int32_t>(std::min<size_t>(held_rows, kMaxPassRows));
  for (int32_t first = 0; first < params.num_rows; first += pass_rows) {
    const int32_t rows = std::min(pass_rows, params.num_rows - first);
    const int64_t head = int64_t{first} * params.num_kv_heads;
    const int64_t elements = int64_t{first} * params.num_q_heads * params.head_dim * SizeOf(params.dtype);
    RetrievalQualityParams& op = args.op;
    op.q = static_cast<const char*>(params.q) + elements;
    op.sparse_out = static_cast<const char*>(params.sparse_out) + elements;
    op.page_table = params.page_table + int64_t{first} * params.max_pages;
    op.context_len = params.context_len + first;
    op.num_select = params.num_select + first;
    op.selected = params.selected + head * params.max_select;
    op.num_selected = params.num_selected + head;
    for (const auto metric : {&RetrievalQualityParams::recall, &RetrievalQualityParams::iou,
                              &RetrievalQualityParams::candidate_mass, &RetrievalQualityParams::oracle_mass,
                              &RetrievalQualityParams::attention_mass, &RetrievalQualityParams::output_error}) {
      op.*metric = params.*metric + head;
    }
    if (params.pages.kv_scale != nullptr) {
      LaunchTyped<__nv_fp8_e4m3>(args, rows, &sequence);
      continue;
    }
    switch (params.dtype) {
      case DType::kF32:
        LaunchTyped<float>(args, rows, &sequence);
        break;
      case DType::kBF16:
        LaunchTyped<__nv_bfloat16>(args, rows, &sequence);
        break;
      case DType::kF16:
        LaunchTyped<__half>(args, rows, &sequence);
        break;
    }
  }
  return sequence.error();
}

}  // namespace spotlight::kernels::cuda
