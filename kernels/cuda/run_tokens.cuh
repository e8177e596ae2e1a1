// From a run's scores and its cut to the tokens that are attended to, in order of index.
#pragma once

#include <cstdint>

#include "kernels/cuda/run_scores.cuh"

namespace spotlight::kernels::cuda {

// A token's place in the cache: page * P + slot.
__device__ inline int32_t EntryOf(const int32_t* page_table, int32_t token) {
  return page_table[token / kPageTokens] * kPageTokens + token % kPageTokens;
}
__device__ inline const int32_t* PageTableOf(const SparseArgs& args, const Run& run) {
  return args.page_table + int64_t{run.row} * args.max_pages;
}

// Tokens that a warp can remember, of all its runs.
inline constexpr int kMaxFound = 512;

// Remembers the warp's tokens of the run whose scores are up to run->early; found [kMaxFound], *size: those of all
// runs. Every lane must call.
__device__ inline void Remember(Run* run, const uint16_t* scores, uint16_t* found, int32_t* size) {
  int32_t end = *size;
  ForOctets(*run, scores, run->early, [&](int32_t token, uint32_t chosen, uint32_t ties) {
    chosen |= ties;
    const int32_t number = __popc(chosen), inclusive = WarpInclusiveSum(number);
    int32_t at = end + inclusive - number;
    end += __shfl_sync(~0u, inclusive, 31);
#pragma unroll 1
    for (; chosen != 0; chosen &= chosen - 1, ++at) {
      if (at < kMaxFound) found[at] = static_cast<uint16_t>(token + __ffs(chosen) - 1);
    }
  });
  const int warp = threadIdx.x / 32;
  if (threadIdx.x % 32 == 0) {
    run->found_begin[warp] = static_cast<uint16_t>(*size);
    run->num_found[warp] = static_cast<uint16_t>(end - *size);
    if (end > kMaxFound) atomicOr(&run->overflowed, 1);
  }
  if (end <= kMaxFound) *size = end;
  __syncwarp();
}

// Calls visit(token, chosen, tied) for 32 of the warp's remembered tokens of a run at a time, in order. Every lane must
// call.
template <class Visit>
__device__ void ForFound(const Run& run, int32_t cut, const uint16_t* scores, const uint16_t* found,
                         const Visit& visit) {
  const int warp = threadIdx.x / 32;
  const int32_t size = run.num_found[warp];
  found += run.found_begin[warp];
#pragma unroll 1
  for (int32_t first = 0; first < size; first += 32) {
    const int32_t i = first + static_cast<int32_t>(threadIdx.x % 32);
    const int32_t token = i < size ? found[i] : 0, score = i < size ? scores[PlaceOfScore(token)] : INT32_MAX;
    visit(token, score < cut, score == cut);
  }
}

// Counts the warp's tokens of the run that the cut chooses, and those that tie. Every lane must call.
__device__ inline void Count(Run* run, const Cut& cut, const uint16_t* scores, const uint16_t* found) {
  uint32_t counts = 0;
  if (cut.score <= run->early && run->overflowed == 0) {
    ForFound(*run, cut.score, scores, found, [&](int32_t, bool chosen, bool tied) {
      counts += __popc(__ballot_sync(~0u, chosen)) | __popc(__ballot_sync(~0u, tied)) << 16;
    });
  } else {
    ForOctets(*run, scores, cut.score,
              [&](int32_t, uint32_t chosen, uint32_t ties) { counts += __popc(chosen) | __popc(ties) << 16; });
    counts = __reduce_add_sync(~0u, counts);
  }
  if (threadIdx.x % 32 == 0) run->counts[threadIdx.x / 32] = counts;
}

// Counts of the warps before this one.
struct Before {
  int32_t chosen, ties;
};
__device__ inline Before BeforeWarp(const Run& run) {
  uint32_t sum = 0;
#pragma unroll
  for (int w = 0; w < kSparseWarps; ++w) sum += w < static_cast<int>(threadIdx.x / 32) ? run.counts[w] : 0u;
  return {static_cast<int32_t>(sum & 0xffff), static_cast<int32_t>(sum >> 16)};
}

// The chosen of the warp's tokens in order: accept(token of the run, place among the run's chosen). Every lane must
// call.
template <class Accept>
__device__ void ForChosen(const Run& run, const uint16_t* scores, const uint16_t* found, const Accept& accept) {
  const Before before = BeforeWarp(run);
  int32_t allowed_ties = run.ties_allowed - before.ties, place = before.chosen + min(before.ties, run.ties_allowed);
  if (run.remembered()) {
    const uint32_t below = (1u << threadIdx.x % 32) - 1;
    ForFound(run, run.cut.score, scores, found, [&](int32_t token, bool chosen, bool tied) {
      const uint32_t ties = __ballot_sync(~0u, tied);
      chosen = chosen || (tied && __popc(ties & below) < allowed_ties);
      const uint32_t all = __ballot_sync(~0u, chosen);
      if (chosen) accept(token, place + __popc(all & below));
      allowed_ties -= __popc(ties);
      place += __popc(all);
    });
    return;
  }
  ForOctets(run, scores, run.cut.score, [&](int32_t token, uint32_t chosen, uint32_t ties) {
    const int32_t own_ties = __popc(ties), inclusive_ties = WarpInclusiveSum(own_ties);
    int32_t allowed = allowed_ties - (inclusive_ties - own_ties);
    allowed_ties -= __shfl_sync(~0u, inclusive_ties, 31);
#pragma unroll 1
    for (; ties != 0 && allowed > 0; ties &= ties - 1, --allowed) chosen |= ties & -ties;
    const int32_t own = __popc(chosen), inclusive = WarpInclusiveSum(own);
    int32_t at = place + inclusive - own;
    place += __shfl_sync(~0u, inclusive, 31);
#pragma unroll 1
    for (; chosen != 0; chosen &= chosen - 1, ++at) accept(token + __ffs(chosen) - 1, at);
  });
}

}  // namespace spotlight::kernels::cuda
