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

// Of eight neighbouring scores, a bit for each that is up to `early`; bound: 0x8000 + early in either half. Scores have
// 15 bits: one subtraction compares two of them, and leaves the answers in bits 15 and 31.
__device__ inline uint32_t BitsUpTo(uint32_t bound, const uint4& scores) {
  const uint32_t pairs = ((bound - scores.x) & 0x80008000u) >> 15 | ((bound - scores.y) & 0x80008000u) >> 13 |
                         ((bound - scores.z) & 0x80008000u) >> 11 | ((bound - scores.w) & 0x80008000u) >> 9;
  return (pairs | pairs >> 15) & 0xffu;
}

// Remembers the warp's tokens of the run whose scores are up to run->early, in order, half a page to a lane; found
// [kMaxFound], *size: those of all runs. Every lane must call.
__device__ inline void Remember(Run* run, const uint16_t* scores, uint16_t* found, int32_t* size) {
  constexpr int kEighths = kPageTokens / 2 / 8;
  const uint32_t bound = static_cast<uint32_t>(0x8000 + run->early) * 0x10001u;
  const int lane = threadIdx.x % 32;
  const Share pages = run->WarpPages();
  const uint4* const own = reinterpret_cast<const uint4*>(scores + pages.begin * kPageTokens) + lane * kEighths;
  int32_t end = *size;
#pragma unroll 1
  for (int32_t first = 0; first < pages.size; first += 16) {
    uint32_t below = 0;
    if (first + lane / 2 < pages.size) {
#pragma unroll
      for (int i = 0; i < kEighths; ++i) {
        const int eighth = (i + lane / 2) % kEighths;  // lanes that read together read from different banks
        below |= BitsUpTo(bound, own[first * 2 * kEighths + eighth]) << 8 * eighth;
      }
    }
    const int32_t count = __popc(below), inclusive = WarpInclusiveSum(count);
    const int32_t token = (pages.begin + first) * kPageTokens + lane * (kPageTokens / 2) - 1;
    for (int32_t at = end + inclusive - count; below != 0; below &= below - 1, ++at) {
      if (at < kMaxFound) found[at] = static_cast<uint16_t>(token + __ffs(below));
    }
    end += __shfl_sync(~0u, inclusive, 31);
  }
  const int warp = run->TeamWarp();
  if (lane == 0) {
    run->found_begin[warp] = static_cast<uint16_t>(*size);
    run->num_found[warp] = static_cast<uint16_t>(end - *size);
    if (end > kMaxFound) atomicOr(&run->overflowed, 1);
  }
  if (end <= kMaxFound) *size = end;
  __syncwarp();
}

// Calls visit(token, score) for 32 of the warp's remembered tokens of a run at a time, in order. Every lane must call.
template <class Visit>
__device__ void ForFound(const Run& run, const uint16_t* scores, const uint16_t* found, const Visit& visit) {
  const int warp = run.TeamWarp();
  const int32_t size = run.num_found[warp];
  found += run.found_begin[warp];
#pragma unroll 1
  for (int32_t first = 0; first < size; first += 32) {
    const int32_t i = first + static_cast<int32_t>(threadIdx.x % 32);
    const int32_t token = i < size ? found[i] : 0, score = i < size ? scores[token] : INT32_MAX;
    visit(token, score);
  }
}

// Counts the warp's tokens of the run that the cut chooses, and those that tie. Every lane must call.
__device__ inline void Count(Run* run, const Cut& cut, const uint16_t* scores, const uint16_t* found) {
  uint32_t counts = 0;
  const auto count = [&](int32_t, int32_t score) {
    counts += __popc(__ballot_sync(~0u, score < cut.score)) | __popc(__ballot_sync(~0u, score == cut.score)) << 16;
  };
  if (cut.score <= run->early && run->overflowed == 0) {
    ForFound(*run, scores, found, count);
  } else {
    ForTokens(*run, scores, count);
  }
  if (threadIdx.x % 32 == 0) run->counts[run->TeamWarp()] = counts;
}

// Counts of the warps before this one.
struct Before {
  int32_t chosen, ties;
};
__device__ inline Before BeforeWarp(const Run& run) {
  const int warp = run.TeamWarp();
  uint32_t sum = 0;
#pragma unroll
  for (int w = 0; w < kSparseWarps; ++w) sum += w < warp ? run.counts[w] : 0u;
  return {static_cast<int32_t>(sum & 0xffff), static_cast<int32_t>(sum >> 16)};
}

// The chosen of the warp's tokens in order: accept(token of the run, place among the run's chosen). Every lane must
// call.
template <class Accept>
__device__ void ForChosen(const Run& run, const uint16_t* scores, const uint16_t* found, const Accept& accept) {
  const Before before = BeforeWarp(run);
  int32_t allowed_ties = run.ties_allowed - before.ties, place = before.chosen + min(before.ties, run.ties_allowed);
  const int32_t cut = run.cut.score;
  const auto choose = [&](int32_t token, int32_t score) {
    const uint32_t ties = __ballot_sync(~0u, score == cut);
    const bool chosen = score < cut || (score == cut && __popc(ties & LanesBelow()) < allowed_ties);
    const uint32_t all = __ballot_sync(~0u, chosen);
    if (chosen) accept(token, place + __popc(all & LanesBelow()));
    allowed_ties -= __popc(ties);
    place += __popc(all);
  };
  if (run.remembered()) {
    ForFound(run, scores, found, choose);
  } else {
    ForTokens(run, scores, choose);
  }
}

}  // namespace spotlight::kernels::cuda
