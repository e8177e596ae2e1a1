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

// Pages that a warp looks at together, half a page to a lane.
inline constexpr int kPagesTogether = 16;

// Of eight differences of 16 bits, a bit for each that is negative.
__device__ inline uint32_t SignBits(const uint4& pairs) {
  uint32_t low, high;  // a byte of ones for each sign
  asm("prmt.b32 %0, %1, %2, 0xfdb9;" : "=r"(low) : "r"(pairs.x), "r"(pairs.y));
  asm("prmt.b32 %0, %1, %2, 0xfdb9;" : "=r"(high) : "r"(pairs.z), "r"(pairs.w));
  return ((low & 0x08040201u) | (high & 0x80402010u)) * 0x01010101u >> 24;
}
__device__ inline uint4 Minus(uint32_t from, const uint4& pairs) {
  return make_uint4(from - pairs.x, from - pairs.y, from - pairs.z, from - pairs.w);
}

// A bit for each token of half a page that the cut chooses, and for each that ties.
struct HalfPage {
  uint32_t chosen, ties;
};

// Of the scores of half a page. They have 15 bits: one subtraction compares two.
__device__ inline HalfPage Judge(const uint16_t* scores, int32_t cut) {
  constexpr int kEighths = kPageTokens / 2 / 8;
  const uint32_t bound = static_cast<uint32_t>(0x8000 + cut) * 0x10001u;
  uint32_t up_to = 0, under = 0;
#pragma unroll
  for (int i = 0; i < kEighths; ++i) {
    const int eighth = (i + static_cast<int>(threadIdx.x % 32) / 2) % kEighths;  // lanes together read other banks
    const uint4 left = Minus(bound, reinterpret_cast<const uint4*>(scores)[eighth]);
    up_to |= SignBits(left) << 8 * eighth;
    under |= SignBits(make_uint4(left.x - 0x10001u, left.y - 0x10001u, left.z - 0x10001u, left.w - 0x10001u))
             << 8 * eighth;
  }
  return {under, up_to ^ under};
}

// Counts the warp's tokens of the run that the cut chooses, and those that tie. replaces: and leaves a HalfPage where
// the scores of each half page begin, for ForChosen. Every lane must call.
__device__ inline void Count(Run* run, uint16_t* scores, bool replaces) {
  const Share pages = run->WarpPages();
  const int lane = threadIdx.x % 32;
  const int32_t cut = run->cut.score;
  scores += pages.begin * kPageTokens + lane * (kPageTokens / 2);
  uint32_t counts = 0;
#pragma unroll 1
  for (int32_t first = lane / 2; first < pages.size; first += kPagesTogether, scores += kPagesTogether * kPageTokens) {
    const HalfPage half = Judge(scores, cut);
    if (replaces) *reinterpret_cast<HalfPage*>(scores) = half;
    counts += __popc(half.chosen) + (__popc(half.ties) << 16);
  }
  __syncwarp();
  counts = __reduce_add_sync(~0u, counts);
  if (lane == 0) run->counts[run->TeamWarp()] = counts;
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

// The chosen of the warp's tokens, which Count has replaced, in order: accept(token of the run, place among the run's
// chosen), by some lane. Every lane must call.
template <class Accept>
__device__ void ForChosen(const Run& run, const uint16_t* scores, const Accept& accept) {
  const Before before = BeforeWarp(run);
  const Share pages = run.WarpPages();
  const int lane = threadIdx.x % 32;
  int32_t allowed_ties = max(0, run.ties_allowed - before.ties);
  int32_t place = before.chosen + min(before.ties, run.ties_allowed);
  int32_t token = pages.begin * kPageTokens + lane * (kPageTokens / 2);
#pragma unroll 1
  for (int32_t first = 0; first < pages.size; first += kPagesTogether, token += kPagesTogether * kPageTokens) {
    HalfPage half = {0, 0};
    if (first + lane / 2 < pages.size) half = *reinterpret_cast<const HalfPage*>(scores + token);
    const int32_t num_ties = __popc(half.ties), own = __popc(half.chosen) | num_ties << 16;
    const int32_t inclusive = WarpInclusiveSum(own), all = __shfl_sync(~0u, inclusive, 31);
    const int32_t ties_before = (inclusive - own) >> 16;
    for (int32_t extra = ties_before + num_ties - allowed_ties; extra > 0 && half.ties != 0; --extra) {
      half.ties ^= 0x80000000u >> __clz(half.ties);
    }
    int32_t at = place + ((inclusive - own) & 0xffff) + min(ties_before, allowed_ties);
#pragma unroll 1
    for (uint32_t chosen = half.chosen | half.ties; chosen != 0; chosen &= chosen - 1, ++at) {
      accept(token + __ffs(chosen) - 1, at);
    }
    place += (all & 0xffff) + min(all >> 16, allowed_ties);
    allowed_ties -= min(all >> 16, allowed_ties);
  }
}

}  // namespace spotlight::kernels::cuda
