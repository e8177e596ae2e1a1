// Encoders of any shape and type, one block per token and KV head: fp32 weights, fp32 models, hidden sizes that do not
// fit shared memory.
#include "kernels/cuda/e4m3.cuh"
#include "kernels/cuda/encode.h"
#include "kernels/cuda/rotation.cuh"

namespace spotlight::kernels::cuda {
namespace {

constexpr int kEncodeThreads = 256;

// y [num_outputs] in shared memory (+)= x [num_inputs] times matrix `kv_head` of weights; a thread owns columns.
__device__ void Multiply(const void* weights, DType dtype, int32_t kv_head, const float* x, int num_inputs,
                         int num_outputs, float* y) {
  const int64_t begin = int64_t{kv_head} * num_inputs * num_outputs;
  for (int column = threadIdx.x; column < num_outputs; column += kEncodeThreads) {
    float sum = y[column];
    for (int i = 0; i < num_inputs; ++i) {
      sum = fmaf(x[i], LoadElement(weights, dtype, begin + int64_t{i} * num_outputs + column), sum);
    }
    y[column] = sum;
  }
}

__device__ void FillBias(const void* bias, DType dtype, int32_t kv_head, int size, float* y) {
  for (int i = threadIdx.x; i < size; i += kEncodeThreads) y[i] = LoadElement(bias, dtype, int64_t{kv_head} * size + i);
}

// x, hidden and y in shared memory; y [bits] out. The block must have written x and synchronised.
__device__ void Encode(const EncoderWeights& encoder, DType dtype, int32_t kv_head, const float* x, int num_inputs,
                       int bits, float* hidden, float* y) {
  FillBias(encoder.b2, dtype, kv_head, bits, y);
  if (encoder.hidden > 0) {
    FillBias(encoder.b1, dtype, kv_head, encoder.hidden, hidden);
    Multiply(encoder.w1, dtype, kv_head, x, num_inputs, encoder.hidden, hidden);
    for (int i = threadIdx.x; i < encoder.hidden; i += kEncodeThreads) hidden[i] /= 1.0f + expf(-hidden[i]);
    __syncthreads();
    Multiply(encoder.w2, dtype, kv_head, hidden, encoder.hidden, bits, y);
  }
  Multiply(encoder.skip, dtype, kv_head, x, num_inputs, bits, y);
  __syncthreads();
}

__device__ void WriteCode(const EncodeAndAppendParams& params, int words, int64_t entry, const float* h) {
  for (int b = threadIdx.x; b < 32 * words; b += kEncodeThreads) {
    const uint32_t word = __ballot_sync(~0u, h[b] >= 0.0f);
    if (b % 32 != 0) continue;
    params.pages.codes[entry * words + b / 32] = word;
    if (b == 0) params.pages.prefix[entry] = word;
  }
}

__device__ void WritePlanes(const EncodeAndAppendParams& params, const HashWeights& hash, int64_t entry,
                            const float* w) {
  __shared__ float shared_unit;
  const int bits = 32 * hash.hash_words;
  if (threadIdx.x < 32) {
    double sum = 0;
    for (int b = threadIdx.x; b < bits; b += 32) sum += double{w[b]} * double{w[b]};
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    const double rms = sqrt(sum / bits);
    if (threadIdx.x == 0) {
      shared_unit = static_cast<float>(hash.plane_step * (rms < 1e-6 ? 1e-6 : rms));
      params.plane_unit[entry] = shared_unit;
    }
  }
  __syncthreads();
  const float last = (1 << hash.num_planes) - 1, middle = 1 << (hash.num_planes - 1);
  uint32_t* planes = params.planes + entry * hash.num_planes * hash.hash_words;
  for (int b = threadIdx.x; b < bits; b += kEncodeThreads) {
    // fmaxf drops a NaN: its level is 0.
    const auto level = static_cast<uint32_t>(fminf(fmaxf(floorf(w[b] / shared_unit) + middle, 0.0f), last));
    for (int j = 0; j < hash.num_planes; ++j) {
      const uint32_t word = __ballot_sync(~0u, level >> j & 1u);
      if (b % 32 == 0) planes[j * hash.hash_words + b / 32] = word;
    }
  }
}

// Grid (tokens, Hkv, sides), block (kEncodeThreads): side 0 encodes the appended key, side 1 the query group.
__global__ void EncodeStep(const EncodeAndAppendParams params, const HashWeights hash, int first_side) {
  extern __shared__ float shared[];
  const int64_t token = blockIdx.x;
  const int32_t kv_head = blockIdx.y, dim = params.head_dim, bits = 32 * hash.hash_words;
  const bool is_query = first_side + blockIdx.z == 1;
  if (is_query ? token >= params.num_plane_tokens : params.slots[token] < 0) return;

  const int32_t group = params.num_q_heads / params.num_kv_heads;
  const int32_t num_inputs = is_query ? group * dim : dim;
  float* const y = shared;
  float* const x = y + bits;
  float* const hidden = x + num_inputs;
  const int64_t entry =
      is_query ? token * params.num_kv_heads + kv_head : EntryOf(params.slots[token], params.num_kv_heads, kv_head);
  // The stored values, rounded to dtype.
  const void* source = is_query ? params.q_out : params.pages.kv;
  const int64_t begin = is_query ? entry * group * dim : entry * 2 * dim;
  const float* scale = is_query || params.pages.kv_scale == nullptr ? nullptr : params.pages.kv_scale + entry * 2;
  for (int i = threadIdx.x; i < num_inputs; i += kEncodeThreads) {
    x[i] = scale == nullptr ? LoadElement(source, params.dtype, begin + i)
                            : RoundedToBf16(ToFloat(static_cast<const __nv_fp8_e4m3*>(source)[begin + i]) * *scale);
  }
  __syncthreads();
  Encode(is_query ? hash.query : hash.key, hash.weight_dtype, kv_head, x, num_inputs, bits, hidden, y);
  if (is_query) {
    WritePlanes(params, hash, entry, y);
  } else {
    WriteCode(params, hash.hash_words, entry, y);
  }
}

}  // namespace

void EncodePlain(const EncodeAndAppendParams& params, bool with_keys, LaunchSequence* sequence) {
  const HashWeights& hash = *params.hash;
  const int32_t num_inputs = params.num_q_heads / params.num_kv_heads * params.head_dim;
  const int32_t hidden = max(hash.key.hidden, hash.query.hidden);
  const size_t shared_bytes = sizeof(float) * (32 * hash.hash_words + num_inputs + hidden);
  const int first_side = with_keys ? 0 : 1, last_side = params.num_plane_tokens > 0 ? 1 : 0;
  if (last_side < first_side) return;
  const dim3 grid(with_keys ? params.num_tokens : params.num_plane_tokens, params.num_kv_heads,
                  last_side - first_side + 1);
  sequence->Launch(EncodeStep, grid, dim3(kEncodeThreads), shared_bytes, params, hash, first_side);
}

}  // namespace spotlight::kernels::cuda
