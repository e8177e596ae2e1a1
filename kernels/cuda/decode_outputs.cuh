// What a decode row's encoder outputs become: a key's code, a query group's planes. Thread b of the block holds output
// b.
#pragma once

#include "kernels/cuda/decode_args.h"
#include "kernels/cuda/rotation.cuh"

namespace spotlight::kernels::cuda {

// place: the key's in kv, or -1.
template <int kWords>
__device__ inline void WriteCode(const DecodeArgs& args, int64_t place, int dim_log2, float output) {
  const int b = threadIdx.x;
  if (place < 0 || b >= 32 * kWords) return;
  const uint32_t word = __ballot_sync(~0u, output >= 0.0f);
  if (b % 32 != 0) return;
  const int64_t entry = place >> dim_log2 >> 1;
  args.codes[entry * kWords + b / 32] = word;
  if (b == 0) args.prefix[entry] = word;
}

// To within 2^-22.
__device__ inline float SquareRoot(float x) {
  float root;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(x));
  return root;
}

// All threads of the block take part; warp_sums: a float per warp.
template <int kWords>
__device__ inline void WritePlanes(const DecodeArgs& args, int64_t entry, float output, float* warp_sums) {
  const int b = threadIdx.x, warp = b / 32;
  float squares = output * output;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) squares += __shfl_xor_sync(~0u, squares, offset);
  if (b % 32 == 0) warp_sums[warp] = squares;
  __syncthreads();
  if (warp >= kWords) return;
  float sum = 0;
#pragma unroll
  for (int w = 0; w < kWords; ++w) sum += warp_sums[w];
  const float rms = SquareRoot(sum * (1.0f / (32 * kWords)));
  const float unit = args.plane_step * (rms < 1e-6f ? 1e-6f : rms);
  if (b == 0) args.plane_unit[entry] = unit;
  const int num_planes = args.num_planes;
  const float last = (1 << num_planes) - 1, middle = 1 << (num_planes - 1);
  // fmaxf drops a NaN: its level is 0.
  const auto level = static_cast<uint32_t>(fminf(fmaxf(floorf(__fdividef(output, unit)) + middle, 0.0f), last));
  uint32_t* planes = args.planes + entry * num_planes * kWords + warp;
#pragma unroll 1
  for (int j = 0; j < num_planes; ++j) {
    const uint32_t word = __ballot_sync(~0u, level >> j & 1u);
    if (b % 32 == 0) planes[j * kWords] = word;
  }
}

}  // namespace spotlight::kernels::cuda
