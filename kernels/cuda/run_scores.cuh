// Scores of a run's tokens, where sparse_decode keeps them, and what passes over them find.
//
// A score is a distance from the best one; what does not compete has the one past the worst.
#pragma once

#include <cstdint>

#include "kernels/cuda/code_stream.cuh"
#include "kernels/cuda/runs.cuh"
#include "kernels/cuda/score_tile.cuh"

namespace spotlight::kernels::cuda {

// Scores of a run: shared memory, or global.
__device__ inline uint16_t* ScoresOf(const SparseArgs& args, const Run& run, uint16_t* shared) {
  if (run.score_page >= 0) return shared + run.score_page * kPageTokens;
  return args.scores + (int64_t{run.row_head} * args.row_pages + run.first_page) * kPageTokens;
}

// Numbers of a run's pages: what the stream left in shared memory, or the page table.
__device__ inline const int32_t* PagesOf(const SparseArgs& args, const Run& run, const int32_t* shared) {
  if (run.score_page >= 0) return shared + run.score_page;
  return args.page_table + int64_t{run.row} * args.max_pages + run.first_page;
}

// Lanes before this one.
__device__ inline uint32_t LanesBelow() {
  return (1u << threadIdx.x % 32) - 1;
}

// Scores the warp's candidates of one run by kWords words of their codes, and counts them. histogram has one bin more
// than there are scores, for tokens that do not compete. *part: the stream's, which goes on from run to run.
template <int kWords>
__device__ void ScoreRun(const Run& run, const PlaneOperand<kWords>& planes, CodeStream<kWords>* stream, int* part,
                         uint16_t* run_scores, int32_t* histogram, int32_t num_bins) {
  const int lane = threadIdx.x % 32;
  const Share pages = run.WarpPages();
  const int32_t num_candidates = run.competition.count;
  int32_t left = pages.size;
  uint16_t* scores = run_scores + pages.begin * kPageTokens + lane;
  // Where this lane's first key of a page stands among the candidates.
  int32_t candidate = (run.first_page + pages.begin) * kPageTokens + lane - run.competition.begin;
#pragma unroll 1
  while (left > 0) {
    const Code<kWords>* codes = stream->Wait(*part) + lane;
    const int32_t count = stream->PartOf(left);
    // The next page's codes are loaded before this one's scores are written, which they may not pass.
    Code<kWords> ahead[2] = {codes[0], codes[32]};
#pragma unroll 2
    for (int32_t i = 0; i < count; ++i) {
      const Code<kWords> keys[2] = {ahead[0], ahead[1]};
      const int32_t next = min(i + 1, count - 1) * kPageTokens;
      ahead[0] = codes[next];
      ahead[1] = codes[next + 32];
      int32_t distances[2];
      planes.Score(keys, distances);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int32_t at = i * kPageTokens + 32 * k;
        const bool competes = static_cast<uint32_t>(candidate + at) < static_cast<uint32_t>(num_candidates);
        const int32_t score = competes ? distances[k] : num_bins;
        scores[at] = static_cast<uint16_t>(score);
        atomicAdd(histogram + score, 1);
      }
    }
    stream->Fill(*part);
    *part = *part + 1 == kCodeStages ? 0 : *part + 1;
    left -= count;
    scores += count * kPageTokens;
    candidate += count * kPageTokens;
  }
}

// Tokens of a warp that wait to be scored in full.
inline constexpr int kRescoredTogether = 64;
inline constexpr int kMaxWaiting = kRescoredTogether + 32;

// Scores in full, in place, what the run's cut leaves of the warp's tokens; the rest competes no longer. waiting
// [kMaxWaiting]: the warp's, in shared memory. ties_before: of the run, those of the warps before. Every lane must
// call.
template <int kWords>
__device__ void RescoreRun(const SparseArgs& args, const Run& run, const PlaneOperand<kWords>& planes,
                           int32_t ties_before, const int32_t* page_numbers, uint16_t* scores, uint16_t* waiting,
                           int32_t* histogram, int32_t num_bins) {
  const int lane = threadIdx.x % 32;
  int32_t ties_allowed = run.ties_allowed - ties_before, size = 0;
  const auto score_last = [&](int32_t count) {
    size -= count;
    __syncwarp();
    Code<kWords> keys[2];
    int32_t tokens[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      tokens[k] = waiting[size + min(32 * k + lane, count - 1)];
      const int64_t page = page_numbers[tokens[k] / kPageTokens];
      const int64_t entry = (page * args.num_kv_heads + run.head) * kPageTokens + tokens[k] % kPageTokens;
      keys[k] = *reinterpret_cast<const Code<kWords>*>(args.codes + entry * kWords);
    }
    int32_t distances[2];
    planes.Score(keys, distances);
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      if (32 * k + lane >= count) continue;
      scores[tokens[k]] = static_cast<uint16_t>(distances[k]);
      atomicAdd(histogram + distances[k], 1);
    }
    __syncwarp();
  };
  const int32_t cut = run.cut.score;
  const Share pages = run.WarpPages();
#pragma unroll 1
  for (int32_t first = pages.begin * kPageTokens; first < (pages.begin + pages.size) * kPageTokens; first += 32) {
    const int32_t score = scores[first + lane];
    const uint32_t ties = __ballot_sync(~0u, score == cut);
    const bool kept = score < cut || (score == cut && __popc(ties & LanesBelow()) < ties_allowed);
    const uint32_t all = __ballot_sync(~0u, kept);
    ties_allowed -= __popc(ties);
    scores[first + lane] = static_cast<uint16_t>(num_bins);
    if (kept) waiting[size + __popc(all & LanesBelow())] = static_cast<uint16_t>(first + lane);
    size += __popc(all);
    if (size >= kRescoredTogether) score_last(kRescoredTogether);
  }
  if (size > 0) score_last(size);
}

}  // namespace spotlight::kernels::cuda
