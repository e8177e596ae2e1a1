// How sparse_decode shares out a batch: each (row, KV head) is cut into units, a unit is one warp's work, and the
// blocks of the grid take equal runs of units. The cut depends on the row's own length only.
//
// Unit u of U owns the pages u, u + U, u + 2U, ...: tokens that matter lie together, so neighbouring pages belong to
// different warps.
#pragma once

#include <cstdint>

#include "kernels/cuda/block_search.cuh"
#include "kernels/cuda/sparse_plan.h"
#include "kernels/layout.h"

namespace spotlight::kernels::cuda {

// The units of a launch in order of row, head, unit.
class UnitMap {
 public:
  // begin [kMaxLaunchRows + 1] in shared memory. Every thread of the block calls; synchronises.
  __device__ void Build(const int32_t* context_len, int32_t num_rows, int32_t num_heads, int32_t max_units,
                        int32_t* begin) {
    begin_ = begin;
    num_rows_ = num_rows;
    num_heads_ = num_heads;
    if (threadIdx.x < 32) {
      int32_t before = 0;
      for (int32_t first = 0; first < num_rows; first += 32) {
        const int32_t row = first + static_cast<int32_t>(threadIdx.x);
        const int32_t units = row < num_rows ? num_heads * NumUnits(context_len[row], max_units) : 0;
        const int32_t inclusive = WarpInclusiveSum(units);
        if (row < num_rows) begin[row + 1] = before + inclusive;
        before += __shfl_sync(~0u, inclusive, 31);
      }
      if (threadIdx.x == 0) begin[0] = 0;
    }
    __syncthreads();
  }

  __device__ int32_t size() const { return begin_[num_rows_]; }
  // First unit of a block; the block after it ends its run.
  __device__ int32_t BlockBegin(int32_t block) const {
    return static_cast<int32_t>(int64_t{size()} * block / static_cast<int32_t>(gridDim.x));
  }
  __device__ int32_t RowOf(int32_t unit) const {
    int32_t low = 0, high = num_rows_ - 1;
    while (low < high) {
      const int32_t middle = (low + high + 1) / 2;
      if (begin_[middle] <= unit) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }
  // row * Hkv + head of a unit.
  __device__ int32_t RowHeadOf(int32_t unit) const {
    const int32_t row = RowOf(unit);
    return row * num_heads_ + (unit - begin_[row]) / UnitsOf(row);
  }
  // Units of one (row, head), and the first of them.
  __device__ int32_t UnitsOf(int32_t row) const { return (begin_[row + 1] - begin_[row]) / num_heads_; }
  __device__ int32_t HeadBegin(int32_t row, int32_t head) const { return begin_[row] + head * UnitsOf(row); }

 private:
  const int32_t* begin_;
  int32_t num_rows_, num_heads_;
};

}  // namespace spotlight::kernels::cuda
