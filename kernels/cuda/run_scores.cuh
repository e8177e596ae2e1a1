// Scores of a run's tokens, where sparse_decode keeps them, and what passes over them find.
//
// A score is a distance from the best one; what does not compete has the one past the worst. Scores of eight
// neighbours, an octet, lie in 16 bytes, even halves first: token b of an octet is half 2b, from b = 4 on 2b - 7. So a
// comparison's bits come out in order of tokens.
#pragma once

#include <cstdint>

#include "kernels/cuda/code_stream.cuh"
#include "kernels/cuda/runs.cuh"
#include "kernels/cuda/score_tile.cuh"

namespace spotlight::kernels::cuda {

inline constexpr int kPageOctets = kPageTokens / 8;

// Where a token's score stands, of its run's.
__device__ inline int32_t PlaceOfScore(int32_t token) {
  return (token & ~7) | (token & 3) << 1 | (token >> 2 & 1);
}

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

// Bits of the octet's tokens whose scores are at most `most`, -1 <= most < 2^15.
__device__ inline uint32_t AtMost(const uint4& octet, int32_t most) {
  // Subtraction leaves a half's top bit set where nothing is borrowed.
  const uint32_t both = (0x8000u + most) * 0x00010001u;
  const uint32_t bits = ((both - octet.x) >> 15 & 0x00010001u) | ((both - octet.y) >> 14 & 0x00020002u) |
                        ((both - octet.z) >> 13 & 0x00040004u) | ((both - octet.w) >> 12 & 0x00080008u);
  return (bits | bits >> 12) & 0xff;
}

// Calls visit(token, chosen, ties) for the warp's octets of a run, 32 at a time in order: this lane's octet begins with
// `token` of the run; bits of what is under the cut, or ties with it. Every lane must call.
template <class Visit>
__device__ void ForOctets(const Run& run, const uint16_t* scores, int32_t cut, const Visit& visit) {
  const Share pages = run.WarpPages();
  const int32_t octets = pages.size * kPageOctets;
  const uint4* from = reinterpret_cast<const uint4*>(scores) + pages.begin * kPageOctets;
#pragma unroll 1
  for (int32_t first = 0; first < octets; first += 32) {
    const int32_t i = first + static_cast<int32_t>(threadIdx.x % 32);
    uint32_t chosen = 0, ties = 0;
    if (i < octets) {
      const uint4 octet = from[i];
      chosen = AtMost(octet, cut - 1);
      ties = AtMost(octet, cut) & ~chosen;
    }
    visit((pages.begin * kPageOctets + i) * 8, chosen, ties);
  }
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
  uint16_t* scores = run_scores + pages.begin * kPageTokens + PlaceOfScore(lane);
  // Where this lane's first key of a page stands among the candidates.
  int32_t candidate = (run.first_page + pages.begin) * kPageTokens + lane - run.competition.begin;
#pragma unroll 1
  while (left > 0) {
    const Code<kWords>* codes = stream->Wait(*part) + lane;
    const int32_t count = stream->PartOf(left);
#pragma unroll(kWords == 8 ? 2 : 4)
    for (int32_t i = 0; i < count; ++i) {
      const Code<kWords> keys[2] = {codes[i * kPageTokens], codes[i * kPageTokens + 32]};
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
inline constexpr int kMaxWaiting = kRescoredTogether + 32 * 8;

// Scores in full, in place, what the run's cut leaves of the warp's tokens; the rest competes no longer. waiting
// [kMaxWaiting]: the warp's, in shared memory. ties_before: of the run, those of the warps before. Every lane must
// call.
template <int kWords>
__device__ void RescoreRun(const SparseArgs& args, const Run& run, const PlaneOperand<kWords>& planes,
                           int32_t ties_before, const int32_t* pages, uint16_t* scores, uint16_t* waiting,
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
      const int64_t page = pages[tokens[k] / kPageTokens];
      const int64_t entry = (page * args.num_kv_heads + run.head) * kPageTokens + tokens[k] % kPageTokens;
      keys[k] = *reinterpret_cast<const Code<kWords>*>(args.codes + entry * kWords);
    }
    int32_t distances[2];
    planes.Score(keys, distances);
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      if (32 * k + lane >= count) continue;
      scores[PlaceOfScore(tokens[k])] = static_cast<uint16_t>(distances[k]);
      atomicAdd(histogram + distances[k], 1);
    }
    __syncwarp();
  };
  ForOctets(run, scores, run.cut.score, [&](int32_t token, uint32_t chosen, uint32_t ties) {
    const bool present = token < (run.WarpPages().begin + run.WarpPages().size) * kPageTokens;
    const int32_t own_ties = __popc(ties), inclusive_ties = WarpInclusiveSum(own_ties);
    int32_t allowed = ties_allowed - (inclusive_ties - own_ties);
    ties_allowed -= __shfl_sync(~0u, inclusive_ties, 31);
#pragma unroll 1
    for (; ties != 0 && allowed > 0; ties &= ties - 1, --allowed) chosen |= ties & -ties;
    const int32_t own = __popc(chosen), inclusive = WarpInclusiveSum(own);
    int32_t at = size + inclusive - own;
    size += __shfl_sync(~0u, inclusive, 31);
    if (present) {
      const uint32_t none = num_bins * 0x00010001u;
      *reinterpret_cast<uint4*>(scores + token) = make_uint4(none, none, none, none);
    }
#pragma unroll 1
    for (; chosen != 0; chosen &= chosen - 1) waiting[at++] = static_cast<uint16_t>(token + __ffs(chosen) - 1);
#pragma unroll 1
    while (size >= kRescoredTogether) score_last(kRescoredTogether);
  });
  if (size > 0) score_last(size);
}

}  // namespace spotlight::kernels::cuda
