// From a run's scores and its cut to the tokens that are attended to, in order of index.
#pragma once

#include <cstdint>

#include "kernels/cuda/run_scores.cuh"

namespace spotlight::kernels::cuda {

inline constexpr uint32_t kTieFlag = 1u << 31;

// A token's place in the cache: page * P + slot.
__device__ inline int32_t EntryOf(const int32_t* page_table, int32_t token) {
  return page_table[token / kPageTokens] * kPageTokens + token % kPageTokens;
}
__device__ inline const int32_t* PageTableOf(const SparseArgs& args, const Run& run) {
  return args.page_table + int64_t{run.row} * args.max_pages;
}

// Counts the warp's tokens of the run that the cut chooses, and those that tie; remembers them in found [room],
// numbered from *size on; all of the run or none. Every lane must call.
__device__ inline void Collect(Run* run, const uint16_t* scores, int32_t cut, uint32_t* found, int32_t room,
                               int32_t* size) {
  uint32_t counts = 0;
  int32_t end = *size;
  ForOctets(*run, scores, cut, [&](int32_t token, uint32_t chosen, uint32_t ties) {
    uint32_t both = chosen | ties;
    const uint32_t own = __popc(chosen) | __popc(ties) << 16;
    counts += own;
    const int32_t number = __popc(both), inclusive = WarpInclusiveSum(number);
    int32_t at = end + inclusive - number;
    end += __shfl_sync(~0u, inclusive, 31);
#pragma unroll 1
    for (; both != 0; both &= both - 1, ++at) {
      const int bit = __ffs(both) - 1;
      if (at < room) found[at] = token + bit | ((ties >> bit & 1) != 0 ? kTieFlag : 0u);
    }
  });
  counts = __reduce_add_sync(~0u, counts);
  if (threadIdx.x % 32 == 0) {
    run->counts[threadIdx.x / 32] = counts;
    if (end > room && room > 0) atomicOr(&run->overflowed, 1);
  }
  if (end <= room) *size = end;
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

// The chosen of the warp's tokens in order: accept(token of the run, place among the run's chosen). found: what Collect
// remembered; returns how many those are. Every lane must call.
template <class Accept>
__device__ int32_t ForChosen(const Run& run, const uint32_t* found, const Accept& accept) {
  const int lane = threadIdx.x % 32;
  const uint32_t below = (1u << lane) - 1, own = run.counts[threadIdx.x / 32];
  const int32_t size = static_cast<int32_t>((own & 0xffff) + (own >> 16));
  const Before before = BeforeWarp(run);
  int32_t ties = before.ties, place = before.chosen + min(before.ties, run.ties_allowed);
#pragma unroll 1
  for (int32_t first = 0; first < size; first += 32) {
    const bool present = first + lane < size;
    const uint32_t token = present ? found[first + lane] : 0u;
    const uint32_t tied = __ballot_sync(~0u, (token & kTieFlag) != 0);
    const bool chosen = present && ((token & kTieFlag) == 0 || ties + __popc(tied & below) < run.ties_allowed);
    const uint32_t all = __ballot_sync(~0u, chosen);
    if (chosen) accept(static_cast<int32_t>(token & ~kTieFlag), place + __popc(all & below));
    ties += __popc(tied);
    place += __popc(all);
  }
  return size;
}

// The same from the scores, however many there are.
template <class Accept>
__device__ void ForChosen(const Run& run, const uint16_t* scores, const Accept& accept) {
  const Before before = BeforeWarp(run);
  int32_t allowed_ties = run.ties_allowed - before.ties, place = before.chosen + min(before.ties, run.ties_allowed);
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
