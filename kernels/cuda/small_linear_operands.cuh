// What small_linear's kernels read beside the weights, and what they write: rows of x, with a norm's weight; bias and
// residual, and the gate's activation, on the way out.
#pragma once

#include <cstdint>

#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/pointwise.cuh"
#include "kernels/cuda/small_linear_tile.cuh"
#include "kernels/small_linear.h"

namespace spotlight::kernels::cuda {

// Of the warps that multiply: the first ones of a block.
__device__ inline void SyncLinearWarps() {
  asm volatile("barrier.sync 1, %0;" ::"n"(32 * kLinearWarps) : "memory");
}

// The fragments of x. Of a normed layer they are multiplied by the norm's weight, rounded once; what the norm divides
// by, a row's root mean square, divides its sums: nothing has to be known before the first product, and the squares are
// added up as the fragments come by.
template <typename T, typename W, bool kNorm, int kRowTiles>
class Inputs {
 public:
  using Unit = InputUnit[kRowTiles];
  struct Gains {
    Vector<T> at[2];
  };

  // gains: the norm's weight, or a copy of it.
  __device__ Inputs(const SmallLinearParams& params, const T* gains) : gains_(gains) {
    for (int r = 0; r < kRowTiles; ++r) {
      const int row = Row(r);
      has_row_[r] = row < params.num_rows;
      rows_[r] = static_cast<const T*>(params.x) + int64_t{has_row_[r] ? row : 0} * params.num_in;
      squares_[r] = 0;
    }
  }

  // Rows that are not there keep what `to` holds.
  __device__ void Load(int unit, Unit& to) const {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      if (!has_row_[r]) continue;
      to[r].at[0] = *reinterpret_cast<const uint4*>(rows_[r] + Column(unit, 0));
      to[r].at[1] = *reinterpret_cast<const uint4*>(rows_[r] + Column(unit, 1));
    }
  }
  __device__ void Load(int unit, Gains* to) const {
    to->at[0] = *reinterpret_cast<const Vector<T>*>(gains_ + Column(unit, 0));
    to->at[1] = *reinterpret_cast<const Vector<T>*>(gains_ + Column(unit, 1));
  }

  __device__ void AddUnitSquares(const Unit& x) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int piece = 0; piece < 2; ++piece) {
        squares_[r] = AddSquares(reinterpret_cast<const Vector<T>&>(x[r].at[piece]), squares_[r]);
      }
    }
  }
  __device__ static void Multiply(const Gains& gains, Unit& x) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int piece = 0; piece < 2; ++piece) {
        const Vector<T> product = Product(reinterpret_cast<const Vector<T>&>(x[r].at[piece]), gains.at[piece]);
        x[r].at[piece] = reinterpret_cast<const uint4&>(product);
      }
    }
  }
  // A warp's sums of squares, to where NormScale looks for them.
  __device__ void Share(float* squares) const {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      float sum = squares_[r] + __shfl_xor_sync(~0u, squares_[r], 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      if (threadIdx.x % 4 == 0) squares[Row(r)] = sum;
    }
  }

 private:
  static __device__ int Row(int r) {
    return threadIdx.x % 32 / 4 + kTileRows * r;
  }
  static __device__ int Column(int unit, int piece) {
    return unit * kUnit + InputColumn<W>(threadIdx.x % 32, piece);
  }

  const T* gains_;
  const T* rows_[kRowTiles];
  bool has_row_[kRowTiles];
  float squares_[kRowTiles];
};

// Outputs that a block makes together. Of a gated layer there are as many of gate as of up, in this order.
struct OutputTile {
  int32_t first = 0, count = 0;

  static __device__ bool Gated(const SmallLinearParams& params) { return params.result == SmallLinearResult::kSiluMul; }
  // Of each row.
  __device__ int32_t Results(const SmallLinearParams& params) const { return Gated(params) ? count / 2 : count; }
  // The matrix's row that makes the tile's output i.
  __device__ int64_t MatrixRow(const SmallLinearParams& params, int32_t i) const {
    if (!Gated(params)) return first + i;
    const int32_t pairs = count / 2;
    return first / 2 + (i < pairs ? i : params.num_out / 2 + i - pairs);
  }
};

// One result of a row, from the sums of output i and, gated, of the one i + Results().
//
// kAdd overwrites what kernels before read. They have ended: a kernel makes results only when the one before it has,
// and ends only after that, so with it have all before. The next begins to read when this one has ended. Within this
// one an element is read by the thread that writes it, and by no other, for x is other memory.
template <typename T>
class Result {
 public:
  Result() = default;
  // Reads what goes with the sums, long before they are there if that is possible.
  __device__ Result(const SmallLinearParams& params, const OutputTile& tile, int row, int32_t i) {
    const bool gated = OutputTile::Gated(params);
    const int32_t results = tile.Results(params);
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      if (part == 1 && !gated) break;
      const int64_t n = tile.MatrixRow(params, i + part * results);
      scale_[part] = params.weight_scale != nullptr ? params.weight_scale[n] : 1;
      if (params.bias != nullptr) bias_[part] = static_cast<const T*>(params.bias)[n];
    }
    const int32_t width = gated ? params.num_out / 2 : params.num_out;
    out_ = static_cast<T*>(params.out) + row * int64_t{width} + tile.MatrixRow(params, i);
    if (params.result == SmallLinearResult::kAdd) before_ = *out_;
  }

  // norm_scale: 1 without a norm.
  __device__ void Store(const SmallLinearParams& params, float norm_scale, float sum, float up_sum) const {
    const float y = Output(norm_scale * sum, 0);
    switch (params.result) {
      case SmallLinearResult::kStore:
        return RoundTo(y, out_);
      case SmallLinearResult::kAdd:
        return RoundTo(ToFloat(before_) + y, out_);
      case SmallLinearResult::kSiluMul:
        return RoundTo(SiluTimes<T>(y, Output(norm_scale * up_sum, 1)), out_);
    }
  }

 private:
  __device__ float Output(float sum, int part) const {
    T y;
    RoundTo(__fadd_rn(__fmul_rn(sum, scale_[part]), ToFloat(bias_[part])), &y);
    return ToFloat(y);
  }

  float scale_[2] = {};
  T bias_[2] = {}, before_ = {};
  T* out_ = nullptr;
};

}  // namespace spotlight::kernels::cuda
