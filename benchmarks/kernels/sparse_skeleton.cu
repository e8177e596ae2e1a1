#include "benchmarks/kernels/sparse_skeleton.h"

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

namespace spotlight::benchmarks {
namespace {

constexpr int kThreads = 256;
constexpr int kLevels = 1924;          // of scores: 15 * 128 + 1, rounded up to whole int4
constexpr int kCounterStride = 32;     // words: a cache line for each counter
constexpr int kMostBlocks = 256;       // of the device, for the scratch
constexpr int kSharedBytes = 116'000;  // keeps a second block away, as the ring of sparse decode does

struct Scratch {
  int32_t* sums;       // [num_heads, kLevels]
  float4* partials;    // [blocks, kThreads]
  unsigned* counters;  // [2, num_heads, kCounterStride]: blocks that have come, over all launches
  int32_t* sink;
};

size_t AlignUp(size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

Scratch Divide(void* memory, int32_t num_heads) {
  char* at = static_cast<char*>(memory);
  const auto take = [&at](size_t bytes) {
    char* const begin = at;
    at += AlignUp(bytes);
    return begin;
  };
  Scratch scratch = {};
  scratch.sums = reinterpret_cast<int32_t*>(take(num_heads * kLevels * sizeof(int32_t)));
  scratch.partials = reinterpret_cast<float4*>(take(kMostBlocks * kThreads * sizeof(float4)));
  scratch.counters = reinterpret_cast<unsigned*>(take(2 * num_heads * kCounterStride * sizeof(unsigned)));
  scratch.sink = reinterpret_cast<int32_t*>(take(sizeof(int32_t)));
  return scratch;
}

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "sparse skeleton: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

// May be older than what was read before it, and holds up nothing that follows.
__device__ unsigned ArrivedAbout(const unsigned* counter) {
  unsigned arrived;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(counter));
  return arrived;
}

__device__ unsigned Arrived(const unsigned* counter) {
  unsigned arrived;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(counter) : "memory");
  return arrived;
}

// All `blocks` of a head. `before`: its counter, thread 0's, before this block had come.
__device__ void Meet(unsigned* counter, unsigned before, unsigned blocks) {
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
    while (Arrived(counter) - before / blocks * blocks < blocks) {
    }
  }
  __syncthreads();
}

// Items [begin, end), `PerTurn` of them by a warp at a time, whose `Loads` int4 of a lane are in flight together.
template <int Loads, int PerTurn, class Address>
__device__ unsigned ReadAll(int begin, int end, Address address) {
  unsigned sum = 0;
  for (int i = begin + threadIdx.x / 32 * PerTurn; i < end; i += kThreads / 32 * PerTurn) {
    uint4 x[Loads];
#pragma unroll
    for (int load = 0; load < Loads; ++load) x[load] = __ldcs(address(min(i + load * PerTurn / Loads, end - 1), load));
#pragma unroll
    for (int load = 0; load < Loads; ++load) sum ^= x[load].x ^ x[load].y ^ x[load].z ^ x[load].w;
  }
  return sum;
}

__global__ void __launch_bounds__(kThreads, 1) SkeletonKernel(SkeletonWork work, Scratch scratch, int parts) {
  const int blocks = gridDim.x / work.num_heads;  // of a head
  const int head = blockIdx.x / blocks, of_head = blockIdx.x % blocks, lane = threadIdx.x % 32;
  const auto share = [&](int count, int block) { return static_cast<int>(int64_t{count} * block / blocks); };
  unsigned* const counters[2] = {scratch.counters + head * kCounterStride,
                                 scratch.counters + (work.num_heads + head) * kCounterStride};
  // Every launch adds `blocks`, and this block has not come yet: what is above the multiple is of this launch.
  unsigned before[2] = {};
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) before[i] = ArrivedAbout(counters[i]);
  }
  unsigned sum = 0;
  if (parts & kReadCodes) {
    const int32_t* const pieces = work.pieces + int64_t{head} * work.num_pieces;
    sum ^= ReadAll<16, 8>(share(work.num_pieces, of_head), share(work.num_pieces, of_head + 1), [&](int i, int load) {
      const char* const piece = static_cast<const char*>(work.codes) + int64_t{pieces[i]} * kSkeletonPieceBytes;
      return reinterpret_cast<const uint4*>(piece + load % 2 * (kSkeletonPieceBytes / 2)) + lane;
    });
  }
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  if (parts & kExchangeSums) {  // everybody adds, everybody reads
    int32_t* const sums = scratch.sums + head * kLevels;
    for (int i = threadIdx.x; i < kLevels; i += kThreads) atomicAdd(sums + i, 1 + (sum == 0x1234));
    Meet(counters[0], before[0], blocks);
    for (int i = threadIdx.x; i < kLevels / 4; i += kThreads) {
      const int4 x = __ldcg(reinterpret_cast<const int4*>(sums) + i);
      sum ^= x.x ^ x.y ^ x.z ^ x.w;
    }
    __syncthreads();
  }
  if (parts & kReadTokens) {
    const int32_t* const tokens = work.tokens + int64_t{head} * work.num_tokens;
    sum ^= ReadAll<16, 16>(share(work.num_tokens, of_head), share(work.num_tokens, of_head + 1), [&](int i, int) {
      const char* const token = static_cast<const char*>(work.kv) + int64_t{tokens[i]} * kSkeletonTokenBytes;
      return reinterpret_cast<const uint4*>(token) + lane;
    });
  }
  if (parts & kCombineResults) {  // each block writes its partial results and reads its share of the head's
    scratch.partials[blockIdx.x * kThreads + threadIdx.x] = make_float4(sum, 0, 0, 0);
    Meet(counters[1], before[1], blocks);
    for (int from = threadIdx.x / 8; from < blocks; from += kThreads / 8) {
      const float4* const partials = scratch.partials + (head * blocks + from) * kThreads;
      sum ^= __float_as_uint(__ldcg(partials + of_head * 8 % kThreads + threadIdx.x % 8).x);
    }
  }
  if (sum == 0x12345678) *scratch.sink = 1;  // keeps the reads
}

}  // namespace

size_t SkeletonScratchBytes(int32_t num_heads) {
  const Scratch scratch = Divide(nullptr, num_heads);
  return reinterpret_cast<size_t>(scratch.sink) + AlignUp(sizeof(int32_t));
}

void LaunchSkeleton(void* stream, const SkeletonWork& work, int parts, bool overlap_previous) {
  static const int num_sms = [] {
    int device = 0, count = 0;
    Check(cudaGetDevice(&device), "cudaGetDevice");
    Check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "multiprocessors");
    const auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    Check(cudaFuncSetAttribute(SkeletonKernel, attribute, kSharedBytes), "shared memory");
    return count < kMostBlocks ? count : kMostBlocks;
  }();
  // Every block is resident at once, as its exchanges ask: a block for each multiprocessor, and what runs before it
  // ends without it.
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = num_sms / work.num_heads * work.num_heads;
  config.blockDim = kThreads;
  config.dynamicSmemBytes = kSharedBytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = overlap_previous ? 1 : 0;
  Check(cudaLaunchKernelEx(&config, SkeletonKernel, work, Divide(work.scratch, work.num_heads), parts), "launch");
}

}  // namespace spotlight::benchmarks
