// Scores of 64 keys by one warp on the tensor cores' binary units: mma.m16n8k128 with AND and popcount.
//
// Scores are linear in the key's bits (kernels/planes.h). What is computed is a key's distance from the best score
// there is: with A = sum_j a_j,
//   32W * A - raw = sum_j a_j popc(k ^ c_j) = sum_j a_j popc(c_j) + A popc(k) - sum_j 2 a_j popc(k & c_j),
// so matrix products of key bits (rows) and plane bits (columns) count everything. An H200 issues one m16n8k128 a clock
// and SM: 64 keys of W words take 3W clocks where popcounts would take 16W (J = 4).
//
// A row of the product holds one word of four keys, one to a lane: lane l brings keys l and l + 32. Columns 2s and
// 2s + 1 are two planes masked to the row's word s, so each lane receives its own keys' counts, and nothing is
// shuffled.
#pragma once

#include <cstdint>

#include "kernels/layout.h"

namespace spotlight::kernels::cuda {

// The weight of plane `plane`; 0 past the last.
__device__ inline int32_t WeightOfPlane(int plane, int num_planes, int32_t top_plane_weight) {
  if (plane >= num_planes) return 0;
  return plane == num_planes - 1 ? top_plane_weight : 1 << plane;
}

__device__ inline void CountCommonBits(uint32_t a0, uint32_t a1, uint32_t b, int32_t (&counts)[4]) {
  asm("mma.sync.aligned.m16n8k128.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+r"(counts[0]), "+r"(counts[1]), "+r"(counts[2]), "+r"(counts[3])
      : "r"(a0), "r"(a1), "r"(b));
}

// One key's code.
template <int kWords>
struct alignas(kWords < 4 ? 4 * kWords : 16) Code {
  uint32_t words[kWords];
};

// The planes of one row and KV head as matrix operands, restricted to the first kWords words of the codes.
template <int kWords>
class PlaneOperand {
 public:
  // planes [num_planes], each at `stride` words from the last, aligned like a Code. Every lane must call.
  __device__ void Load(const uint32_t* planes, int stride, int num_planes, int32_t top_plane_weight) {
    const int row = threadIdx.x % 32 / 4, column = threadIdx.x % 4;
    total_weight_ = (1 << (num_planes - 1)) - 1 + top_plane_weight;
#pragma unroll
    for (int j = 0; j < kMaxPlanes; ++j) twice_[j] = 2 * WeightOfPlane(j, num_planes, top_plane_weight);
    // This lane's element of an operand: column `row`, word `column`.
    const bool present = column == row / 2;
    Code<kWords> held[2] = {};
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const int plane = 2 * pair + row % 2;
      if (present && plane < num_planes) held[pair] = *reinterpret_cast<const Code<kWords>*>(planes + plane * stride);
    }
    int32_t counted = 0;
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const int32_t twice = row % 2 == 0 ? twice_[2 * pair] : twice_[2 * pair + 1];
#pragma unroll
      for (int w = 0; w < kWords; ++w) {
        operand_[w][pair] = held[pair].words[w];
        counted += twice * __popc(held[pair].words[w]);
      }
    }
    // Lanes 0 and 4 hold all planes.
    base_ = (__shfl_sync(~0u, counted, 0) + __shfl_sync(~0u, counted, 4)) / 2;
    ones_ = present && row % 2 == 0 ? ~0u : 0u;
  }

  // Distances of this lane's keys. Every lane must call.
  __device__ void Score(const Code<kWords> (&keys)[2], int32_t (&distances)[2]) const {
    int32_t low[4] = {}, high[4] = {}, all[4] = {};
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      CountCommonBits(keys[0].words[w], keys[1].words[w], operand_[w][0], low);
      CountCommonBits(keys[0].words[w], keys[1].words[w], operand_[w][1], high);
      CountCommonBits(keys[0].words[w], keys[1].words[w], ones_, all);
    }
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      distances[k] = base_ + total_weight_ * all[2 * k] - twice_[0] * low[2 * k] - twice_[1] * low[2 * k + 1] -
                     twice_[2] * high[2 * k] - twice_[3] * high[2 * k + 1];
    }
  }

 private:
  uint32_t operand_[kWords][2];
  uint32_t ones_;
  int32_t twice_[kMaxPlanes];
  int32_t total_weight_, base_;
};

}  // namespace spotlight::kernels::cuda
