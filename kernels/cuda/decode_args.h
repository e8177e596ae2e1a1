// What the kernel of decode rows is told: pointers of one call, and the layout of a block's shared memory.
#pragma once

#include <algorithm>

#include "kernels/cuda/encoder_tile.cuh"

namespace spotlight::kernels::cuda {

constexpr int kClusterBlocks = kParts;
constexpr int kPassTokens = kClusterBlocks;
// Clusters of a launch that read the same weights only pay while all of them fit the device at once.
constexpr int kMaxClusters = 16;
constexpr int kMaxSharedBytes = 227 << 10;

// Byte offsets in a block's shared memory; w1's tiles lie at 0. Rows of activations are padded by 16 bytes (no bank
// conflicts).
struct DecodeShared {
  int32_t skip, w2, b1, b2, bias, rows, low_rows, cosines, sines, products, hidden, low_hidden, received, bytes;
};

// An encoder and its input.
struct DecodeSide {
  const __nv_bfloat16 *w1, *skip, *w2, *b1, *b2;
  const void *bias, *x;
  int64_t x_stride;
  int32_t inputs, hidden;
  DecodeShared at;
};

struct DecodeArgs {
  DecodeSide sides[2];  // query, key
  const int32_t* positions;
  const float* inv_freq;
  const int64_t* slots;
  float rope_scale, plane_step;
  int32_t num_rows, num_kv_heads, half_log2, num_planes;
  const void *v, *v_bias;
  int64_t v_stride;
  void *q_out, *kv;
  float* kv_scale;
  uint32_t *codes, *prefix, *planes;
  float* plane_unit;
  uint64_t* start_ns;
};

// rows: the most tokens of a pass.
DecodeArgs DecodeArgsOf(const EncodeAndAppendParams& params, int rows);

}  // namespace spotlight::kernels::cuda
