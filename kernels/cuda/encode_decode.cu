// Decode rows: one launch for the batch. A cluster of 16 blocks holds one encoder of one KV head, a sixteenth of its
// weights each, so that a layer's weights arrive at memory speed, and works through passes of 16 tokens:
//   every block rotates the whole input and computes the hidden units that it owns; their products with its rows of w2
//   and its rows of skip make partial outputs, which go to the block that owns the token, by asynchronous stores to
//   distributed shared memory; the owner adds them up in order and writes the planes or the code.
// A batch of one is all latency: a cold kernel fetches its instructions from memory too, so loops stay rolled, the host
// lays out shared memory, nothing divides.
#include <algorithm>

#include "kernels/cuda/clock.cuh"
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/decode_args.h"
#include "kernels/cuda/decode_outputs.cuh"
#include "kernels/cuda/e4m3_rows.cuh"
#include "kernels/cuda/encode.h"
#include "kernels/cuda/encoder_tile.cuh"
#include "kernels/cuda/rotation.cuh"

namespace spotlight::kernels::cuda {
namespace {

constexpr int kDecodeThreads = 256;
// Variants of the kernel for architectures without clusters are empty and never launched.
#ifdef SPOTLIGHT_CLUSTERS
constexpr int kDecodeWarps = kDecodeThreads / 32;
// Threads that share a token's row: a piece is 4 dimensions and their partners half a head further.
constexpr int kRowThreads = 128;

// sums += 4 tiles of weights times 8 tokens; tokens: the address of this lane's row, 32 inputs per matrix load.
__device__ inline void MultiplyFour(uint32_t weights, uint32_t tokens, float (&sums)[4]) {
  uint32_t a[4][4], b[2][4];
#pragma unroll
  for (int i = 0; i < 4; ++i) LoadMatricesTransposed(weights + i * kTileBytes, a[i]);
#pragma unroll
  for (int i = 0; i < 2; ++i) LoadMatrices(tokens + i * 64, b[i]);
#pragma unroll
  for (int i = 0; i < 4; ++i) Multiply(a[i], b[i / 2][i % 2 * 2], b[i / 2][i % 2 * 2 + 1], sums);
}

// The same for tokens in two parts, tile by tile.
__device__ inline void MultiplySplit(uint32_t weights, uint32_t high, uint32_t low, float (&sums)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    uint32_t a[2][4], b[4], c[4];
    LoadMatricesTransposed(weights + i * kTileBytes, a[0]);
    LoadMatricesTransposed(weights + (i + 1) * kTileBytes, a[1]);
    LoadMatrices(high + i * 32, b);
    LoadMatrices(low + i * 32, c);
    Multiply(a[0], b[0], b[1], sums);
    Multiply(a[0], c[0], c[1], sums);
    Multiply(a[1], b[2], b[3], sums);
    Multiply(a[1], c[2], c[3], sums);
  }
}

// This block's share of the weights. tiles, slices: its tiles of hidden units and of
// inputs.
template <int kBits>
__device__ inline void FetchWeights(const DecodeSide& side, int kv_head, const TileRange& tiles,
                                    const TileRange& slices, uint32_t base) {
  const int thread = threadIdx.x, inputs = side.inputs, hidden = side.hidden;
  const auto copy_tiles = [&](const __nv_bfloat16* source, int row_stride, int num_rows, auto columns, int at) {
    CopyTiles<decltype(columns)::value>(source, row_stride, num_rows, base + at, thread, kDecodeThreads);
  };
  const __nv_bfloat16* w1 = side.w1 + int64_t{kv_head} * inputs * hidden + tiles.first * 16;
#pragma unroll 1
  for (int i = 0; i < tiles.size(); ++i) {
    copy_tiles(w1 + i * 16, hidden, inputs, std::integral_constant<int, 1>(), i * inputs * 32);
  }
  const std::integral_constant<int, kBits / 16> columns;
  copy_tiles(side.skip + (kv_head * inputs + slices.first * 16) * kBits, kBits, slices.size() * 16, columns,
             side.at.skip);
  copy_tiles(side.w2 + (kv_head * hidden + tiles.first * 16) * kBits, kBits, tiles.size() * 16, columns, side.at.w2);
  if (thread < tiles.size() * 2) {
    CopyAsync16(base + side.at.b1 + thread * 16, side.b1 + kv_head * hidden + tiles.first * 16 + thread * 8);
  }
  if (thread < kBits / 8) CopyAsync16(base + side.at.b2 + thread * 16, side.b2 + kv_head * kBits + thread * 8);
}
#endif

// Grid (kClusterBlocks, Hkv, 2 * clusters per encoder): even z is the query encoder, odd z the key's. Clusters along x.
// kE4m3: so are the pages.
template <class T, int kWords, bool kE4m3>
__global__ void __launch_bounds__(kDecodeThreads, 4) EncodeDecodeRows(const __grid_constant__ DecodeArgs args) {
#ifdef SPOTLIGHT_CLUSTERS
  constexpr bool kWithLow = !std::is_same<T, __nv_bfloat16>::value;
  constexpr int kBits = 32 * kWords, kOutTiles = kBits / 16;
  using Piece = Vector<T, 8>;
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ __align__(8) uint64_t received_barrier;
  __shared__ float warp_sums[kDecodeWarps];
  __shared__ int64_t places[kPassTokens];

  AllowNext();
  const int rank = blockIdx.x, kv_head = blockIdx.y, thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const bool is_query = blockIdx.z % 2 == 0;
  const DecodeSide& side = args.sides[blockIdx.z % 2];
  const uint32_t base = SharedAddress(shared);
  if (thread == 0) InitBarrier(SharedAddress(&received_barrier));
  // Costs nothing, and thread 0 alone uses the barrier next; but its initialisation is compiled to an instruction of
  // the whole warp, which racecheck takes for other threads' writes.
  __syncwarp();
  ArriveAtClusterRelaxed();  // awaited before the first store to another block: by then all of them run
  const int inputs = side.inputs, hidden = side.hidden, input_tiles = inputs / 16;
  const TileRange tiles(rank, hidden / 16), slices(rank, input_tiles);
  // The weights: not written by the stream's previous kernel, so read before it ends.
  FetchWeights<kBits>(side, kv_head, tiles, slices, base);
  if (thread < inputs / 8) {
    if (side.bias != nullptr) {
      CopyAsync16(base + side.at.bias + thread * 16, static_cast<const T*>(side.bias) + kv_head * inputs + thread * 8);
    } else {
      StoreVector(NoBias<T>(), shared + side.at.bias, thread * 8);
    }
  }
  const int half_log2 = args.half_log2, half = 1 << half_log2, dim = 2 * half;
  const int row_size = inputs + 8, num_rows = args.num_rows, step = gridDim.z / 2 * kPassTokens;
  T* const rows = reinterpret_cast<T*>(shared + side.at.rows);
  auto* const cosines = reinterpret_cast<float*>(shared + side.at.cosines);
  auto* const sines = reinterpret_cast<float*>(shared + side.at.sines);
  auto* const products = reinterpret_cast<float*>(shared + side.at.products);
  void* const out = is_query ? args.q_out : args.kv;

  // A thread turns one dimension of every table_step-th token.
  const float inv_freq = args.inv_freq[thread & (half - 1)];
  const int table_token = thread >> half_log2, table_step = kDecodeThreads >> half_log2;
  const int row_token = thread / kRowThreads, row_piece = thread % kRowThreads;

  WaitForPrevious();
  if (args.start_ns != nullptr && rank + kv_head + static_cast<int>(blockIdx.z) + thread == 0) {
    *args.start_ns = Nanoseconds();
  }
#pragma unroll 1
  for (int first = blockIdx.z / 2 * kPassTokens, pass = 0; first < num_rows; ++pass, first += step) {
    const int count = min(num_rows - first, kPassTokens);
    if (pass > 0) __syncthreads();  // the last pass has been read
    if (thread == 0 && rank < count) ExpectBytes(SharedAddress(&received_barrier), kParts * kBits * 4);
    int32_t positions[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = table_token + i * table_step;
      positions[i] = token < count ? args.positions[first + token] : 0;
    }
#pragma unroll 1
    for (int token = row_token; token < count; token += kDecodeThreads / kRowThreads) {
      const T* source = static_cast<const T*>(side.x) + (first + token) * side.x_stride + kv_head * inputs;
#pragma unroll 1
      for (int piece = row_piece; piece < inputs / 8; piece += kRowThreads) {
        CopyAsync16(base + side.at.rows + (token * row_size + piece * 8) * 2, source + piece * 8);
      }
    }
    // Where a token's row goes: to q_out, or to its key's place in a page. -1: padding.
    if (thread < count) {
      int64_t place = (int64_t{first + thread} * args.num_kv_heads + kv_head) * inputs;
      if (!is_query) {
        const int64_t slot = args.slots[first + thread];
        place = slot < 0 ? -1 : EntryOf(slot, args.num_kv_heads, kv_head) * 2 * dim;
      }
      places[thread] = place;
    }
    // The cluster shares out the values to append: at most kPassTokens * 16 pieces, so one per thread. One in e4m3 is
    // rounded as a whole: a token for each block.
    const int value_piece = kE4m3 ? thread : rank + kClusterBlocks * thread;
    const int value_token = kE4m3 ? rank : value_piece >> (half_log2 - 2), value_d = value_piece * 8 & (dim - 1);
    const bool has_value = !is_query && value_token < count && (!kE4m3 || thread * 8 < dim);
    Vector<T> value, value_bias;
    if (has_value) {
      value = LoadVector<T>(args.v, (first + value_token) * args.v_stride + kv_head * dim + value_d);
      value_bias = LoadBias<T>(args.v_bias, kv_head * dim + value_d);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (table_token + i * table_step >= count) break;
      const float2 rotation = RotationOf(positions[i], inv_freq, args.rope_scale);
      cosines[thread + i * kDecodeThreads] = rotation.x;
      sines[thread + i * kDecodeThreads] = rotation.y;
    }
    WaitForCopies();
    __syncthreads();

    // Rotates the rows in place; of the blocks that all do so, one stores each piece.
#pragma unroll 1
    for (int token = row_token; token < count; token += kDecodeThreads / kRowThreads) {
#pragma unroll 1
      for (int piece = row_piece; piece < inputs / 8; piece += kRowThreads) {
        const int d = piece * 4 & (half - 1), offset = ((piece * 4) >> half_log2) * dim + d;
        const int turn = (token << half_log2) + d, place = token * row_size + offset;
        Piece low = LoadVector<T, 8>(rows, place), high = LoadVector<T, 8>(rows, place + half);
        const void* bias = shared + side.at.bias;
        Rotate(LoadVector<T, 8>(bias, offset), LoadVector<T, 8>(bias, offset + half), cosines + turn, sines + turn,
               &low, &high);
        const bool stores = (piece + token) % kClusterBlocks == rank && places[token] >= 0;
        if constexpr (kE4m3) {
          if (!is_query) {
            const float scale = ScaleOfRow(max(Largest(low), Largest(high)), inputs / 8);
            const auto low_bytes = RoundToE4m3(scale, &low), high_bytes = RoundToE4m3(scale, &high);
            if (stores) {
              StoreVector(low_bytes, args.kv, places[token] + offset);
              StoreVector(high_bytes, args.kv, places[token] + offset + half);
              if (piece == 0) args.kv_scale[places[token] >> (half_log2 + 1)] = scale;
            }
          }
        }
        if constexpr (kWithLow) {
          auto* const bf16_rows = reinterpret_cast<__nv_bfloat16*>(rows) + place;
          auto* const low_rows = reinterpret_cast<__nv_bfloat16*>(shared + side.at.low_rows) + place;
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            Split(ToFloat(low.at[i]), bf16_rows + i, low_rows + i);
            Split(ToFloat(high.at[i]), bf16_rows + half + i, low_rows + half + i);
          }
        } else {
          StoreVector(low, rows, place);
          StoreVector(high, rows, place + half);
        }
        if (stores && (!kE4m3 || is_query)) {
          StoreVector(low, out, places[token] + offset);
          StoreVector(high, out, places[token] + offset + half);
        }
      }
    }
    __syncthreads();

    // A warp's unit of work is one tile of outputs and 8 tokens; rows past the last token repeat it, their columns go
    // nowhere. Lanes name rows of 8 tokens x 32 inputs.
    const int halves = count > 8 ? 2 : 1, chunks = CeilDiv(input_tiles, kChunkTiles);
    const int row = lane / 4, pair = lane % 4 * 2, lane_input = lane / 8 * 8;
    const uint32_t lane_tile = base + LaneTileOffset(lane);
#pragma unroll 1
    for (int i = 0; i < halves * tiles.size(); ++i) {
      const int half_pass = i & (halves - 1), tile = i >> (halves - 1);
      const int lane_row = (min(half_pass * 8 + (lane & 7), count - 1) * row_size + lane_input) * 2;
#pragma unroll 1
      for (int chunk = warp; chunk < chunks; chunk += kDecodeWarps) {
        float sums[4] = {};
        const int last = min((chunk + 1) * kChunkTiles, input_tiles);
#pragma unroll 1
        for (int k = chunk * kChunkTiles; k < last; k += 4) {
          const uint32_t weights = lane_tile + (tile * input_tiles + k) * kTileBytes;
          if constexpr (kWithLow) {
            MultiplySplit(weights, base + side.at.rows + lane_row + k * 32, base + side.at.low_rows + lane_row + k * 32,
                          sums);
          } else {
            MultiplyFour(weights, base + side.at.rows + lane_row + k * 32, sums);
          }
        }
        float* const product = products + ((tile * chunks + chunk) * 16 + row) * kPassTokens + half_pass * 8 + pair;
        *reinterpret_cast<float2*>(product) = make_float2(sums[0], sums[1]);
        *reinterpret_cast<float2*>(product + 8 * kPassTokens) = make_float2(sums[2], sums[3]);
      }
    }
    __syncthreads();

    const int hidden_size = CeilDiv(hidden / 16, kParts) * 16 + 8;
#pragma unroll 1
    for (int i = thread; i < tiles.size() * 16 * kPassTokens; i += kDecodeThreads) {
      const int hidden_unit = i % 16 + i / (16 * kPassTokens) * 16, t = i / 16 % kPassTokens;
      if (t >= count) continue;
      const float* product = products + (hidden_unit / 16 * chunks * 16 + i % 16) * kPassTokens + t;
      float sum = 0;
#pragma unroll 1
      for (int chunk = 0; chunk < chunks; chunk += 8) {
        float parts[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) parts[j] = chunk + j < chunks ? product[(chunk + j) * 16 * kPassTokens] : 0.0f;
#pragma unroll
        for (int j = 0; j < 8; ++j) sum += parts[j];
      }
      const float b1 = __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(shared + side.at.b1)[hidden_unit]);
      const int place = t * hidden_size + hidden_unit;
      Split(Silu(sum + b1), reinterpret_cast<__nv_bfloat16*>(shared + side.at.hidden) + place,
            reinterpret_cast<__nv_bfloat16*>(shared + side.at.low_hidden) + place);
    }
    if (has_value && places[value_token] >= 0) {
      Vector<T> stored = Add(value, value_bias);
      if constexpr (kE4m3) {
        const float scale = ScaleOfRow(Largest(stored), dim / 8);
        StoreVector(RoundToE4m3(scale, &stored), args.kv, places[value_token] + dim + value_d);
        if (value_d == 0) args.kv_scale[(places[value_token] >> (half_log2 + 1)) + 1] = scale;
      } else {
        StoreVector(stored, args.kv, places[value_token] + dim + value_d);
      }
    }
    WaitForCluster();  // every block runs, and has read what the last pass left with it
    __syncthreads();

    // Block `token` of the cluster owns a token.
#pragma unroll 1
    for (int i = warp; i < kOutTiles * halves; i += kDecodeWarps) {
      const int out_tile = i % kOutTiles, first_token = i / kOutTiles * 8;
      const int lane_row = (min(first_token + (lane & 7), count - 1) * row_size + (lane & 8)) * 2;
      float sums[4] = {};
#pragma unroll 2
      for (int k = slices.first; k < slices.last; ++k) {
        uint32_t a[4], b[4];
        LoadMatricesTransposed(lane_tile + side.at.skip + (out_tile * slices.size() + k - slices.first) * kTileBytes,
                               a);
        LoadMatrices(base + side.at.rows + lane_row + k * 32, b);
        Multiply(a, b[0], b[1], sums);
        if constexpr (kWithLow) {
          LoadMatrices(base + side.at.low_rows + lane_row + k * 32, b);
          Multiply(a, b[0], b[1], sums);
        }
      }
      // Lanes 0 .. 15 name the rows' high parts, 16 .. 31 their low parts.
      const uint32_t hidden_row = base + (lane < 16 ? side.at.hidden : side.at.low_hidden) +
                                  ((first_token + (lane & 7)) * hidden_size + (lane & 8)) * 2;
#pragma unroll 1
      for (int tile = 0; tile < tiles.size(); ++tile) {
        uint32_t a[4], b[4];
        LoadMatricesTransposed(lane_tile + side.at.w2 + (out_tile * tiles.size() + tile) * kTileBytes, a);
        LoadMatrices(hidden_row + tile * 32, b);
        Multiply(a, b[0], b[1], sums);
        Multiply(a, b[2], b[3], sums);
      }
      const uint32_t place = base + side.at.received + (rank * kBits + out_tile * 16 + row) * 4;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int owner = first_token + pair + j;
        if (owner >= count) continue;
        const uint32_t remote = RemoteAddress(place, owner);
        const uint32_t remote_barrier = RemoteAddress(SharedAddress(&received_barrier), owner);
        StoreRemote(remote, sums[j], remote_barrier);
        StoreRemote(remote + 32, sums[2 + j], remote_barrier);
      }
    }
    if (rank < count) {
      float output = 0;
      if (thread < kBits) {
        output = __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(shared + side.at.b2)[thread]);
        WaitForBarrier(SharedAddress(&received_barrier), pass & 1);
        const auto* parts = reinterpret_cast<const float*>(shared + side.at.received) + thread;
#pragma unroll
        for (int part = 0; part < kParts; ++part) output += parts[part * kBits];
      }
      if (is_query) {
        WritePlanes<kWords>(args, int64_t{first + rank} * args.num_kv_heads + kv_head, output, warp_sums);
      } else {
        WriteCode<kWords>(args, places[rank], half_log2 + 1, output);
      }
    }
    if (first + step < num_rows) ArriveAtCluster();
  }
#endif
}

using DecodeKernel = void (*)(DecodeArgs);

template <class T, bool kE4m3>
DecodeKernel KernelOfWords(int words) {
  switch (words) {
    case 1:
      return EncodeDecodeRows<T, 1, kE4m3>;
    case 2:
      return EncodeDecodeRows<T, 2, kE4m3>;
    case 4:
      return EncodeDecodeRows<T, 4, kE4m3>;
    default:
      return EncodeDecodeRows<T, 8, kE4m3>;
  }
}

DecodeKernel KernelOf(const EncodeAndAppendParams& params) {
  const int words = params.hash->hash_words;
  if (params.pages.kv_scale != nullptr) return KernelOfWords<__nv_bfloat16, true>(words);
  return params.dtype == DType::kBF16 ? KernelOfWords<__nv_bfloat16, false>(words)
                                      : KernelOfWords<__half, false>(words);
}

int ClustersPerEncoder(const EncodeAndAppendParams& params) {
  return std::clamp(kMaxClusters / (2 * params.num_kv_heads), 1, CeilDiv(params.num_plane_tokens, kPassTokens));
}

int SharedBytes(const DecodeArgs& args) {
  return std::max(args.sides[0].at.bytes, args.sides[1].at.bytes);
}

}  // namespace

bool EncodeDecodeSupported(const EncodeAndAppendParams& params) {
  // A full pass must fit, so that a token's path does not depend on its batch. Kernels that were compiled for an
  // earlier architecture know no clusters, whatever the device.
  cudaFuncAttributes attributes;
  return params.num_plane_tokens > 0 && EncodeKeysSupported(params) &&
         SharedBytes(DecodeArgsOf(params, kPassTokens)) <= kMaxSharedBytes &&
         cudaFuncGetAttributes(&attributes, KernelOf(params)) == cudaSuccess && attributes.ptxVersion >= 90;
}

void EncodeDecode(const EncodeAndAppendParams& params, LaunchSequence* sequence) {
  const DecodeKernel kernel = KernelOf(params);
  const DecodeArgs args = DecodeArgsOf(params, std::min(params.num_plane_tokens, kPassTokens));
  const int shared_bytes = SharedBytes(args);
  sequence->Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  sequence->Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  sequence->Check(
      cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared));
  LaunchOptions options;
  options.overlap_previous = true;
  options.cluster_size = kClusterBlocks;
  const dim3 grid(kClusterBlocks, params.num_kv_heads, 2 * ClustersPerEncoder(params));
  sequence->LaunchWith(options, kernel, grid, dim3(kDecodeThreads), shared_bytes, args);
}

}  // namespace spotlight::kernels::cuda
