// One launch: score, agree on the cut, attend, combine. SparseDecodeKernel lists the stages.
#pragma once

#include "kernels/cuda/launch.h"
#include "kernels/cuda/sparse_args.cuh"
#include "kernels/cuda/sparse_block.cuh"
#include "kernels/cuda/sparse_launch.h"

namespace spotlight::kernels::cuda {

// One launch. Stages:
//   1. blocks score their runs' candidates, and add the running sums of each run's histogram to its row's;
//   2. with the prefilter, scores were of word 0: each block finds the row's cut for kPrefilterFactor * K, scores in
//      full what is left, and publishes those histograms;
//   3. each block finds the row's cut for K, and its own runs' chosen tokens;
//   4. its warps attend to those; where few runs of a row have most of them, to equal shares of all;
//   5. blocks combine the runs of whole rows.
// Between them stand barriers among the blocks of one (row, KV head) only.
// kManyRuns: blocks have kMinRunsAlone runs or more. Started cold, a kernel pays for its instructions: code that few
// runs do not need would cost them up to 3 us.
template <class T, int kDim, int kHeadTiles, bool kManyRuns>
__global__ void __launch_bounds__(kSparseThreads, 1) SparseDecodeKernel(const __grid_constant__ SparseArgs args) {
  // Bulk copies are quickest to where a line of 128 bytes begins.
  extern __shared__ __align__(128) uint4 dynamic_words[];
  __shared__ SparseShared shared;
  SparseBlock<kManyRuns> block(args, reinterpret_cast<char*>(dynamic_words), &shared);
  const Scoring scoring = args.prefilter ? Scoring::kPrefix : Scoring::kFull;
  if (args.prefilter || args.hash_words == 1) {
    block.template Score<1>(args.prefilter ? args.prefix : args.codes, scoring);
  } else if (args.hash_words == 2) {
    block.template Score<2>(args.codes, scoring);
  } else if (args.hash_words == 4) {
    block.template Score<4>(args.codes, scoring);
  } else {
    block.template Score<8>(args.codes, scoring);
  }
  block.MarkStage(0);
  if (args.prefilter) block.Rescore();
  block.template Attend<T, kDim, kHeadTiles>();
  block.template Combine<T, kDim, kHeadTiles>();
  block.MarkStage(2);
}

template <class T>
void LaunchSparse(const LaunchOptions& options, const SparseArgs& args, int32_t head_dim, bool many_runs,
                  int32_t blocks, int32_t shared_bytes, LaunchSequence* sequence) {
  const bool wide = args.num_q_heads / args.num_kv_heads > kTileHeads;
  auto kernel = head_dim == 64 ? (wide ? SparseDecodeKernel<T, 64, 2, false> : SparseDecodeKernel<T, 64, 1, false>)
                               : (wide ? SparseDecodeKernel<T, 128, 2, false> : SparseDecodeKernel<T, 128, 1, false>);
  if constexpr (sizeof(T) <= 2) {
    if (many_runs && !wide) {
      kernel = head_dim == 64 ? SparseDecodeKernel<T, 64, 1, true> : SparseDecodeKernel<T, 128, 1, true>;
    }
  }
  sequence->Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  sequence->LaunchWith(options, kernel, dim3(blocks), dim3(kSparseThreads), shared_bytes, args);
}

}  // namespace spotlight::kernels::cuda
