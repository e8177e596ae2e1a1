// Keys of prompt chunks: rotation, append, and their codes. A block keeps the key encoder of one KV head in shared
// memory and works through tiles of tokens: the next tile's keys arrive while this one's are rotated in place and
// encoded. A warp multiplies 16 units by 32 tokens at a time. Nothing but keys and codes goes to global memory.
#include <algorithm>

#include "kernels/cuda/e4m3_rows.cuh"
#include "kernels/cuda/encode.h"
#include "kernels/cuda/encoder_tile.cuh"
#include "kernels/cuda/rotation.cuh"

namespace spotlight::kernels::cuda {
namespace {

// Leaves registers for RotateAndAppend to run beside it.
constexpr int kKeyThreads = 256;
[[maybe_unused]] constexpr int kKeyWarps = kKeyThreads / 32;
constexpr int kWarpTokens = 32;
constexpr int kMaxKeyHidden = 16 * kParts;  // a part has at most one tile of hidden units
constexpr size_t kMaxSharedBytes = 227 << 10;

// A block's shared memory, byte offsets. Rows of activations are padded by 16 bytes (no bank conflicts).
struct KeyShared {
  int w1, w2, skip, b1, b2, inv_freq, slots, positions, rows, low_rows, hidden, low_hidden, bytes;
};

__host__ __device__ inline KeyShared LayOutShared(int dim, int hidden, int bits, int tile_tokens, bool with_low) {
  KeyShared at = {};
  const int row_bytes = tile_tokens * (dim + 8) * 2, hidden_bytes = hidden > 0 ? tile_tokens * (hidden + 8) * 2 : 0;
  at.w2 = at.w1 + dim * hidden * 2;
  at.skip = at.w2 + hidden * bits * 2;
  at.b1 = at.skip + dim * bits * 2;
  at.b2 = at.b1 + hidden * 4;
  at.inv_freq = at.b2 + bits * 4;
  at.slots = at.inv_freq + dim / 2 * 4;
  at.positions = at.slots + 2 * tile_tokens * 8;
  at.rows = at.positions + 2 * tile_tokens * 4;
  at.low_rows = at.rows + 2 * row_bytes;
  at.hidden = at.low_rows + (with_low ? row_bytes : 0);
  at.low_hidden = at.hidden + hidden_bytes;
  at.bytes = at.low_hidden + hidden_bytes;
  return at;
}

// The 8 bits at lanes t, t + 4, .. t + 28 of a ballot, side by side.
__device__ inline uint32_t EveryFourth(uint32_t ballot, int t) {
  uint32_t x = ballot >> t & 0x11111111u;
  x = (x | x >> 3) & 0x03030303u;
  x = (x | x >> 6) & 0x000f000fu;
  return (x | x >> 12) & 0xffu;
}

// Signs of 16 outputs x 32 tokens: lane n gets token n's.
__device__ inline uint32_t PackSigns(const float (&sums)[4][4], int lane) {
  uint32_t packed = 0;
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    uint32_t ballots[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) ballots[i] = __ballot_sync(~0u, sums[n][i] >= 0.0f);
    if (lane / 8 != n) continue;
    const int t = lane % 8 / 2, odd = lane % 2;
    packed = EveryFourth(odd ? ballots[1] : ballots[0], t) | EveryFourth(odd ? ballots[3] : ballots[2], t) << 8;
  }
  return packed;
}

// sums += a tile of weights times 32 tokens; `rows`: the address of this lane's row, `pitch` bytes for 16 rows.
__device__ inline void MultiplyTile(const uint32_t (&a)[4], uint32_t rows, int pitch, float (&sums)[4][4]) {
  uint32_t low[4], high[4];
  LoadMatrices(rows, low);
  LoadMatrices(rows + pitch, high);
  Multiply(a, low[0], low[1], sums[0]);
  Multiply(a, low[2], low[3], sums[1]);
  Multiply(a, high[0], high[1], sums[2]);
  Multiply(a, high[2], high[3], sums[3]);
}

// Grid (blocks per head, Hkv). tile_tokens: a multiple of 32. kE4m3: so are the pages.
template <class T, bool kE4m3>
__global__ void __launch_bounds__(kKeyThreads, 2)
    EncodeKeyTiles(const __grid_constant__ EncodeAndAppendParams params, const __grid_constant__ HashWeights hash,
                   int tile_tokens) {
  constexpr bool kWithLow = !std::is_same<T, __nv_bfloat16>::value;
  extern __shared__ __align__(128) unsigned char shared[];
  const int kv_head = blockIdx.y, dim = params.head_dim, hidden = hash.key.hidden, bits = 32 * hash.hash_words;
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int hidden_tiles = hidden / 16, input_tiles = dim / 16, out_tiles = bits / 16;
  const int num_tiles = CeilDiv(params.num_tokens, tile_tokens);
  const KeyShared at = LayOutShared(dim, hidden, bits, tile_tokens, kWithLow);
  const uint32_t base = SharedAddress(shared);
  const int row_size = dim + 8, hidden_size = hidden + 8;

  const auto matrix = [&](const void* weights, int size) {
    return static_cast<const __nv_bfloat16*>(weights) + int64_t{kv_head} * size;
  };
  for (int i = 0; i < hidden_tiles; ++i) {
    CopyTiles<1>(matrix(hash.key.w1, dim * hidden) + i * 16, hidden, dim, base + at.w1 + i * dim * 32, thread,
                 kKeyThreads);
  }
  for (int i = 0; i < out_tiles; i += 2) {
    CopyTiles<2>(matrix(hash.key.w2, hidden * bits) + i * 16, bits, hidden, base + at.w2 + i * hidden * 32, thread,
                 kKeyThreads);
    CopyTiles<2>(matrix(hash.key.skip, dim * bits) + i * 16, bits, dim, base + at.skip + i * dim * 32, thread,
                 kKeyThreads);
  }
  auto* const b1 = reinterpret_cast<float*>(shared + at.b1);
  auto* const b2 = reinterpret_cast<float*>(shared + at.b2);
  auto* const inv_freq = reinterpret_cast<float*>(shared + at.inv_freq);
  static_assert(kKeyThreads >= kMaxKeyHidden && kKeyThreads >= 32 * kMaxHashWords, "one value per thread");
  if (thread < hidden) b1[thread] = __bfloat162float(matrix(hash.key.b1, hidden)[thread]);
  if (thread < bits) b2[thread] = __bfloat162float(matrix(hash.key.b2, bits)[thread]);
  if (thread < dim / 2) inv_freq[thread] = params.inv_freq[thread];

  // Starts the copy of a tile's keys, slots and positions.
  const auto copy_tile = [&](int tile, int buffer) {
    const int64_t first = int64_t{tile} * tile_tokens;
    const int count = min(tile_tokens, static_cast<int>(params.num_tokens - first)), pieces = dim / 8;
    const T* source = static_cast<const T*>(params.k) + first * params.k_stride + kv_head * dim;
    const uint32_t rows = base + at.rows + buffer * tile_tokens * row_size * 2;
    for (int i = thread; i < count * pieces; i += kKeyThreads) {
      const int token = i / pieces, piece = i % pieces;
      CopyAsync16(rows + (token * row_size + piece * 8) * 2, source + token * params.k_stride + piece * 8);
    }
    if (thread < count) {
      CopyAsync8(base + at.slots + (buffer * tile_tokens + thread) * 8, params.slots + first + thread);
      CopyAsync4(base + at.positions + (buffer * tile_tokens + thread) * 4, params.positions + first + thread);
    }
  };

  WaitForPrevious();
  AllowNext();
  copy_tile(blockIdx.x, 0);
  const int group = lane / 4, lane_tile = LaneTileOffset(lane);
  const int lane_token = (lane & 7) + (lane >> 4 & 1) * 8, lane_input = (lane >> 3 & 1) * 8;
  const int halves = tile_tokens / kWarpTokens;
  const int row_pitch = 16 * row_size * 2, hidden_pitch = 16 * hidden_size * 2;
  int buffer = 0;
  for (int tile = blockIdx.x; tile < num_tiles; tile += gridDim.x, buffer ^= 1) {
    const int count = min(tile_tokens, static_cast<int>(params.num_tokens - int64_t{tile} * tile_tokens));
    WaitForCopies();
    __syncthreads();
    if (tile + gridDim.x < num_tiles) copy_tile(tile + gridDim.x, buffer ^ 1);

    auto* const rows = reinterpret_cast<T*>(shared + at.rows) + buffer * tile_tokens * row_size;
    auto* const low_rows = reinterpret_cast<__nv_bfloat16*>(shared + at.low_rows);
    const auto* slots = reinterpret_cast<const int64_t*>(shared + at.slots) + buffer * tile_tokens;
    const auto* positions = reinterpret_cast<const int32_t*>(shared + at.positions) + buffer * tile_tokens;
    const int half = dim / 2, pieces = half / 8;
    for (int unit = thread; unit < count * pieces; unit += kKeyThreads) {
      const int token = unit / pieces, d = unit % pieces * 8;
      alignas(16) float cosines[8], sines[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float2 rotation = RotationOf(positions[token], inv_freq[d + i], params.rope_scale);
        cosines[i] = rotation.x;
        sines[i] = rotation.y;
      }
      T* const place = rows + token * row_size + d;
      Vector<T> low = LoadVector<T>(place, 0), high = LoadVector<T>(place, half);
      Rotate(LoadBias<T>(params.k_bias, kv_head * dim + d), LoadBias<T>(params.k_bias, kv_head * dim + d + half),
             cosines, sines, &low, &high);
      if (const int64_t slot = slots[token]; slot >= 0) {
        const int64_t out = EntryOf(slot, params.num_kv_heads, kv_head) * 2 * dim + d;
        if constexpr (kE4m3) {
          const float scale = ScaleOfRow(max(Largest(low), Largest(high)), pieces);
          StoreVector(RoundToE4m3(scale, &low), params.pages.kv, out);
          StoreVector(RoundToE4m3(scale, &high), params.pages.kv, out + half);
          if (d == 0) params.pages.kv_scale[out / dim] = scale;
        } else {
          StoreVector(low, params.pages.kv, out);
          StoreVector(high, params.pages.kv, out + half);
        }
      }
      if constexpr (kWithLow) {
        auto* const low_place = low_rows + token * row_size + d;
        auto* const bf16_place = reinterpret_cast<__nv_bfloat16*>(place);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          Split(ToFloat(low.at[i]), bf16_place + i, low_place + i);
          Split(ToFloat(high.at[i]), bf16_place + half + i, low_place + half + i);
        }
      } else {
        StoreVector(low, place, 0);
        StoreVector(high, place, half);
      }
    }
    __syncthreads();

    // Tokens past the last are whatever lies there; their columns go nowhere.
    const int lane_row = (lane_token * row_size + lane_input) * 2;
    const uint32_t row_address = base + at.rows + buffer * tile_tokens * row_size * 2 + lane_row;
    const uint32_t low_address = base + at.low_rows + lane_row;
    for (int unit = warp; unit < hidden_tiles * halves; unit += kKeyWarps) {
      const int h = unit / halves, token = unit % halves * kWarpTokens;
      const int row = token * row_size * 2;
      float products[4][4] = {};
#pragma unroll 4
      for (int k = 0; k < input_tiles; ++k) {
        uint32_t a[4];
        LoadMatricesTransposed(base + at.w1 + (h * input_tiles + k) * kTileBytes + lane_tile, a);
        MultiplyTile(a, row_address + row + k * 32, row_pitch, products);
        if constexpr (kWithLow) MultiplyTile(a, low_address + row + k * 32, row_pitch, products);
      }
      const float first_bias = b1[h * 16 + group], second_bias = b1[h * 16 + group + 8];
      // Units and tokens change places: an accumulator holds a unit per row, an operand a token.
      uint32_t place = (token + group) * hidden_size * 2 + h * 32 + lane % 4 * 4;
#pragma unroll
      for (int n = 0; n < 4; ++n, place += 8 * hidden_size * 2) {
        __nv_bfloat16 high[4], low[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) Split(Silu(products[n][i] + (i < 2 ? first_bias : second_bias)), &high[i], &low[i]);
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
          *reinterpret_cast<uint32_t*>(shared + at.hidden + place + i * 8) =
              TransposeMatrix(Pack(high[i], high[i + 1]));
          *reinterpret_cast<uint32_t*>(shared + at.low_hidden + place + i * 8) =
              TransposeMatrix(Pack(low[i], low[i + 1]));
        }
      }
    }
    __syncthreads();

    const uint32_t hidden_address = base + at.hidden + (lane_token * hidden_size + lane_input) * 2;
    const uint32_t low_hidden_address = hidden_address + at.low_hidden - at.hidden;
    for (int unit = warp; unit < out_tiles * halves; unit += kKeyWarps) {
      const int out = unit / halves, token = unit % halves * kWarpTokens;
      float sums[4][4];
#pragma unroll
      for (int i = 0; i < 16; ++i) sums[i / 4][i % 4] = b2[out * 16 + group + (i % 4 / 2) * 8];
#pragma unroll 2
      for (int part = 0; part < kParts; ++part) {
        const TileRange slices(part, input_tiles), units(part, hidden_tiles);
        if (slices.size() + units.size() == 0) continue;
        float products[4][4] = {};
        uint32_t a[4];
        if (slices.size() > 0) {
          LoadMatricesTransposed(base + at.skip + (out * input_tiles + slices.first) * kTileBytes + lane_tile, a);
          const int place = token * row_size * 2 + slices.first * 32;
          MultiplyTile(a, row_address + place, row_pitch, products);
          if constexpr (kWithLow) MultiplyTile(a, low_address + place, row_pitch, products);
        }
        if (units.size() > 0) {
          LoadMatricesTransposed(base + at.w2 + (out * hidden_tiles + units.first) * kTileBytes + lane_tile, a);
          const int place = token * hidden_size * 2 + units.first * 32;
          MultiplyTile(a, hidden_address + place, hidden_pitch, products);
          MultiplyTile(a, low_hidden_address + place, hidden_pitch, products);
        }
#pragma unroll
        for (int i = 0; i < 16; ++i) sums[i / 4][i % 4] += products[i / 4][i % 4];
      }
      // Two tiles of outputs make a word; the low half lies first.
      const auto packed = static_cast<uint16_t>(PackSigns(sums, lane));
      if (token + lane >= count || slots[token + lane] < 0) continue;
      const int64_t entry = EntryOf(slots[token + lane], params.num_kv_heads, kv_head);
      reinterpret_cast<uint16_t*>(params.pages.codes + entry * hash.hash_words)[out] = packed;
      if (out < 2) reinterpret_cast<uint16_t*>(params.pages.prefix + entry)[out] = packed;
    }
  }
}

size_t SharedBytes(const EncodeAndAppendParams& params, int tile_tokens) {
  return LayOutShared(params.head_dim, params.hash->key.hidden, 32 * params.hash->hash_words, tile_tokens,
                      params.dtype == DType::kF16)
      .bytes;
}

}  // namespace

bool EncodeKeysSupported(const EncodeAndAppendParams& params) {
  const HashWeights& hash = *params.hash;
  return params.dtype != DType::kF32 && hash.weight_dtype == DType::kBF16 && hash.key.hidden <= kMaxKeyHidden &&
         SharedBytes(params, kWarpTokens) <= kMaxSharedBytes;
}

void EncodeKeys(const EncodeAndAppendParams& params, LaunchSequence* sequence) {
  int device = 0, num_processors = 0;
  sequence->Check(cudaGetDevice(&device));
  sequence->Check(cudaDeviceGetAttribute(&num_processors, cudaDevAttrMultiProcessorCount, device));
  // Short chunks: smaller tiles for more blocks.
  const int max_blocks = std::max(1, num_processors / params.num_kv_heads);
  const bool is_long = CeilDiv(params.num_tokens, 2 * kWarpTokens) >= max_blocks;
  const int tile_tokens =
      is_long && SharedBytes(params, 2 * kWarpTokens) <= kMaxSharedBytes ? 2 * kWarpTokens : kWarpTokens;
  const size_t shared_bytes = SharedBytes(params, tile_tokens);
  const dim3 grid(std::min(CeilDiv(params.num_tokens, tile_tokens), max_blocks), params.num_kv_heads);
  LaunchOptions options;
  options.overlap_previous = true;
  const auto launch = [&](auto* kernel) {
    sequence->Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
    sequence->LaunchWith(options, kernel, grid, dim3(kKeyThreads), shared_bytes, params, *params.hash, tile_tokens);
  };
  if (params.pages.kv_scale != nullptr) {
    launch(EncodeKeyTiles<__nv_bfloat16, true>);
  } else if (params.dtype == DType::kBF16) {
    launch(EncodeKeyTiles<__nv_bfloat16, false>);
  } else {
    launch(EncodeKeyTiles<__half, false>);
  }
}

}  // namespace spotlight::kernels::cuda
