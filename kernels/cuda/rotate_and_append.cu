#include <algorithm>

#include "kernels/cuda/e4m3_rows.cuh"
#include "kernels/cuda/encode.h"
#include "kernels/cuda/rotation.cuh"

namespace spotlight::kernels::cuda {
namespace {

constexpr int kRotateThreads = 256;
constexpr int kMaxBlockTokens = 4;

// Grid (tokens / block_tokens, splits): the blocks of a row share out its tokens' 16-byte pieces. kE4m3: so are the
// pages; the neighbouring lanes that have a key's or a value's pieces round it together.
template <class T, bool kE4m3>
__global__ void __launch_bounds__(kRotateThreads, 5)
    RotateAndAppendTokens(const __grid_constant__ EncodeAndAppendParams params, bool beside_keys, int block_tokens) {
  __shared__ __align__(16) float cosines[kMaxBlockTokens * 64], sines[kMaxBlockTokens * 64];
  const int dim = params.head_dim, half = dim / 2, pieces = half / Vector<T>::kSize;
  const int32_t first = blockIdx.x * block_tokens;
  const int count = min(block_tokens, params.num_tokens - first);
  // EncodeKeys lets this kernel begin when what it waited for itself has ended.
  if (!beside_keys) WaitForPrevious();
  AllowNext();
  for (int i = threadIdx.x; i < count * half; i += kRotateThreads) {
    const float2 rotation =
        RotationOf(params.positions[first + i / half], params.inv_freq[i % half], params.rope_scale);
    cosines[i] = rotation.x;
    sines[i] = rotation.y;
  }
  __syncthreads();

  const int begin = blockIdx.y * kRotateThreads + threadIdx.x, step = gridDim.y * kRotateThreads;
  const int heads = params.num_q_heads + (beside_keys ? 0 : params.num_kv_heads);
  const int num_rotations = count * heads * pieces;
  for (int unit = begin; unit < num_rotations; unit += step) {
    const int piece = unit % pieces * Vector<T>::kSize, row = unit / pieces;
    const int64_t token = first + row / heads;
    int head = row % heads;
    const bool is_query = head < params.num_q_heads;
    if (!is_query) head -= params.num_q_heads;
    const int64_t source = is_query ? token * params.q_stride : token * params.k_stride;
    const void* x = is_query ? params.q : params.k;
    const void* bias = is_query ? params.q_bias : params.k_bias;
    Vector<T> low = LoadVector<T>(x, source + head * dim + piece);
    Vector<T> high = LoadVector<T>(x, source + head * dim + piece + half);
    const int turn = row / heads * half + piece;
    Rotate(LoadBias<T>(bias, head * dim + piece), LoadBias<T>(bias, head * dim + piece + half), cosines + turn,
           sines + turn, &low, &high);
    void* out = params.q_out;
    int64_t place = (token * params.num_q_heads + head) * dim + piece;
    if (!is_query) {
      const int64_t slot = params.slots[token];
      if (slot < 0) continue;
      out = params.pages.kv;
      place = EntryOf(slot, params.num_kv_heads, head) * 2 * dim + piece;
      if constexpr (kE4m3) {
        const float scale = ScaleOfRow(max(Largest(low), Largest(high)), pieces);
        StoreVector(RoundToE4m3(scale, &low), out, place);
        StoreVector(RoundToE4m3(scale, &high), out, place + half);
        if (piece == 0) params.pages.kv_scale[place / dim] = scale;
        continue;
      }
    }
    StoreVector(low, out, place);
    StoreVector(high, out, place + half);
  }

  const int num_values = count * params.num_kv_heads * 2 * pieces;
  for (int unit = begin; unit < num_values; unit += step) {
    const int piece = unit % (2 * pieces) * Vector<T>::kSize, row = unit / (2 * pieces);
    const int64_t token = first + row / params.num_kv_heads;
    const int head = row % params.num_kv_heads;
    const int64_t slot = params.slots[token];
    if (slot < 0) continue;
    Vector<T> value = Add(LoadVector<T>(params.v, token * params.v_stride + head * dim + piece),
                          LoadBias<T>(params.v_bias, head * dim + piece));
    const int64_t place = (EntryOf(slot, params.num_kv_heads, head) * 2 + 1) * dim + piece;
    if constexpr (kE4m3) {
      const float scale = ScaleOfRow(Largest(value), 2 * pieces);
      StoreVector(RoundToE4m3(scale, &value), params.pages.kv, place);
      if (piece == 0) params.pages.kv_scale[place / dim] = scale;
    } else {
      StoreVector(value, params.pages.kv, place);
    }
  }
  // What follows in the stream waits for this kernel alone, so one block waits for EncodeKeys.
  if (beside_keys && blockIdx.x == gridDim.x - 1) WaitForPrevious();
}

}  // namespace

void RotateAndAppend(const EncodeAndAppendParams& params, bool beside_keys, LaunchSequence* sequence) {
  // Few tokens: a thread has one or two pieces. Many: a table of rotations serves several tokens.
  const bool few = params.num_tokens <= 1024;
  const int block_tokens = few ? 1 : kMaxBlockTokens;
  const int heads = params.num_q_heads + 3 * params.num_kv_heads;
  const int vector = 16 / static_cast<int>(SizeOf(params.dtype));
  const int splits = few ? (heads * params.head_dim / 2 / vector + kRotateThreads - 1) / kRotateThreads : 1;
  const dim3 grid((params.num_tokens + block_tokens - 1) / block_tokens, splits);
  LaunchOptions options;
  options.overlap_previous = true;
  const auto launch = [&](auto* kernel) {
    sequence->LaunchWith(options, kernel, grid, dim3(kRotateThreads), 0, params, beside_keys, block_tokens);
  };
  if (params.pages.kv_scale != nullptr) return launch(RotateAndAppendTokens<__nv_bfloat16, true>);
  switch (params.dtype) {
    case DType::kF32:
      return launch(RotateAndAppendTokens<float, false>);
    case DType::kBF16:
      return launch(RotateAndAppendTokens<__nv_bfloat16, false>);
    case DType::kF16:
      return launch(RotateAndAppendTokens<__half, false>);
  }
}

}  // namespace spotlight::kernels::cuda
