// What is left of sparse decode without its arithmetic: one launch, reads of scattered code pages, one exchange between
// a row's blocks, reads of scattered tokens, one exchange of partial results. No kernel that reads this paged layout
// and agrees on an exact threshold can be faster than the last column, in the shape of Qwen2.5-7B (4 KV heads, D 128,
// bf16, 128-bit codes, 2% of the tokens). Medians of 40, cold L2, launched cooperatively: bazel run
// //benchmarks/kernels:sparse_floor
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include "benchmarks/kernels/device_kernels.h"
#include "benchmarks/kernels/median.h"

namespace {

constexpr int kBlocks = 132, kThreads = 256;
constexpr int kHeads = 4, kBlocksPerHead = kBlocks / kHeads;
constexpr int kPageTokens = 64, kCodePageBytes = 1024, kTokenBytes = 512;
constexpr int kLevels = 1924;  // of scores: 15 * 128 + 1, rounded up to whole int4
constexpr int kSamples = 40;
constexpr int64_t kSpinNs = 80'000;  // what the host needs to enqueue a sample
constexpr size_t kFlushBytes = size_t{256} << 20, kCodeBytes = size_t{256} << 20, kTokenPoolBytes = size_t{8} << 30;
constexpr int kCounterStride = 32, kCombineCounters = 1024;

enum Part : int { kCodes = 1, kExchange = 2, kTokens = 4, kCombine = 8 };

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  fprintf(stderr, "sparse_floor: %s: %s\n", what, cudaGetErrorString(error));
  exit(1);
}

struct Work {
  const char *codes, *tokens;
  const int *pages, *selected;  // [kBlocks, num_pages], [kBlocks, num_selected]
  int num_pages, num_selected;  // of one block
  int* sums;                    // [kHeads, kLevels]
  float4* partials;             // [kBlocks, kThreads]
  unsigned* counters;           // zero before each launch
  int parts;
  int* sink;
};

__device__ void MeetRow(unsigned* counter) {
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
    unsigned arrived;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(counter) : "memory");
    } while (arrived < kBlocksPerHead);
  }
  __syncthreads();
}

// `Loads` int4 of a lane are in flight together.
template <int Loads, class Address>
__device__ unsigned ReadAll(int count, int items_per_turn, Address address) {
  unsigned sum = 0;
  const int warp = threadIdx.x / 32, warps = kThreads / 32;
  for (int i = warp * items_per_turn; i < count; i += warps * items_per_turn) {
    uint4 x[Loads];
#pragma unroll
    for (int load = 0; load < Loads; ++load) x[load] = __ldcs(address(i, load));
#pragma unroll
    for (int load = 0; load < Loads; ++load) sum ^= x[load].x ^ x[load].y ^ x[load].z ^ x[load].w;
  }
  return sum;
}

__global__ void __launch_bounds__(kThreads, 1) Skeleton(Work work) {
  const int block = blockIdx.x, lane = threadIdx.x % 32, head = block / kBlocksPerHead;
  unsigned sum = 0;
  if (work.parts & kCodes) {  // eight pages of 1 KB at a time
    const int* const pages = work.pages + block * work.num_pages;
    sum ^= ReadAll<16>(work.num_pages, 8, [&](int i, int load) {
      const size_t page = pages[min(i + load / 2, work.num_pages - 1)];
      return reinterpret_cast<const uint4*>(work.codes + page * kCodePageBytes + load % 2 * 512) + lane;
    });
  }
  if (work.parts & kExchange) {  // the histograms' sums: everybody adds, everybody reads
    int* const sums = work.sums + head * kLevels;
    for (int i = threadIdx.x; i < kLevels; i += kThreads) atomicAdd(sums + i, 1 + (sum == 0x1234));
    MeetRow(work.counters + head * kCounterStride);
    for (int i = threadIdx.x; i < kLevels / 4; i += kThreads) {
      const int4 x = __ldcg(reinterpret_cast<const int4*>(sums) + i);
      sum ^= x.x ^ x.y ^ x.z ^ x.w;
    }
    __syncthreads();
  }
  if (work.parts & kTokens) {  // sixteen tokens, K and V together, at a time
    const int* const selected = work.selected + block * work.num_selected;
    sum ^= ReadAll<16>(work.num_selected, 16, [&](int i, int load) {
      const size_t token = selected[min(i + load, work.num_selected - 1)];
      return reinterpret_cast<const uint4*>(work.tokens + token * kTokenBytes) + lane;
    });
  }
  if (work.parts & kCombine) {  // each block writes its partial results and reads its share of the row's
    work.partials[block * kThreads + threadIdx.x] = make_float4(sum, 0, 0, 0);
    MeetRow(work.counters + kCombineCounters + head * kCounterStride);
    const int from = head * kBlocksPerHead + threadIdx.x / 8;
    sum ^= __float_as_uint(__ldcg(work.partials + from * kThreads + block % kBlocksPerHead * 8 + threadIdx.x % 8).x);
  }
  if (sum == 0x12345678) *work.sink = 1;  // keeps the reads
}

template <class T>
T* Allocate(size_t bytes) {
  void* memory = nullptr;
  Check(cudaMalloc(&memory, bytes), "out of device memory");
  Check(cudaMemset(memory, 0, bytes), "cudaMemset");
  return static_cast<T*>(memory);
}

const int* Copy(const std::vector<int>& values) {
  int* const memory = Allocate<int>(values.size() * sizeof(int));
  Check(cudaMemcpy(memory, values.data(), values.size() * sizeof(int), cudaMemcpyHostToDevice), "cudaMemcpy");
  return memory;
}

double MedianUs(Work work, cudaStream_t stream, char* flush, size_t counter_bytes) {
  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin), "cudaEventCreate");
  Check(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<double> times;
  for (int sample = -3; sample < kSamples; ++sample) {
    Check(cudaMemsetAsync(flush, sample, kFlushBytes, stream), "cudaMemsetAsync");
    Check(cudaMemsetAsync(work.counters, 0, counter_bytes, stream), "cudaMemsetAsync");
    spotlight::benchmarks::Spin(stream, kSpinNs);
    Check(cudaEventRecord(begin, stream), "cudaEventRecord");
    void* arguments[] = {&work};
    Check(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(Skeleton), kBlocks, kThreads, arguments, 0, stream),
          "launch");
    Check(cudaEventRecord(end, stream), "cudaEventRecord");
    Check(cudaStreamSynchronize(stream), "the kernel");
    float ms = 0;
    Check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
    if (sample >= 0) times.push_back(ms * 1000);
  }
  return spotlight::benchmarks::Median(times);
}

}  // namespace

int main() {
  cudaDeviceProp device;
  Check(cudaGetDeviceProperties(&device, 0), "no GPU");
  if (device.multiProcessorCount < kBlocks) {
    fprintf(stderr, "sparse_floor: needs %d multiprocessors, %s has %d\n", kBlocks, device.name,
            device.multiProcessorCount);
    return 1;
  }
  cudaStream_t stream;
  Check(cudaStreamCreate(&stream), "cudaStreamCreate");
  const size_t counter_bytes = 2 * kCombineCounters * sizeof(unsigned);
  char* const flush = Allocate<char>(kFlushBytes);
  Work work = {};
  work.codes = Allocate<char>(kCodeBytes);
  work.tokens = Allocate<char>(kTokenPoolBytes);
  work.sums = Allocate<int>(kHeads * kLevels * sizeof(int));
  work.partials = Allocate<float4>(kBlocks * kThreads * sizeof(float4));
  work.counters = Allocate<unsigned>(counter_bytes);
  work.sink = Allocate<int>(sizeof(int));

  printf("%s, us; codes: reads of the code pages; tokens: of the selected; all: with both exchanges\n", device.name);
  printf("%10s %8s %8s %9s %8s %8s %15s %13s %8s\n", "", "launch", "codes", "exchange", "tokens", "combine",
         "codes+exchange", "codes+tokens", "all");
  std::mt19937_64 random(1);
  for (const auto& [batch, context] :
       {std::pair<int, int>(1, 1 << 17), {1, 1 << 19}, {1, 1 << 20}, {1, 1 << 21}, {8, 1 << 17}}) {
    const int64_t tokens = int64_t{batch} * context * kHeads;
    const int64_t selected = int64_t{batch} * kHeads * (context / 50 + 68);  // sinks and recent tokens too
    work.num_pages = static_cast<int>(tokens / kPageTokens / kBlocks);
    work.num_selected = static_cast<int>(selected / kBlocks);
    std::vector<int> permutation(kCodeBytes / kCodePageBytes), pages(size_t{kBlocks} * work.num_pages),
        chosen(size_t{kBlocks} * work.num_selected);
    std::iota(permutation.begin(), permutation.end(), 0);
    std::shuffle(permutation.begin(), permutation.end(), random);
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = permutation[i % permutation.size()];
    for (int& token : chosen) token = static_cast<int>(random() % tokens);
    work.pages = Copy(pages);
    work.selected = Copy(chosen);
    printf("%2d x %4dK:", batch, context >> 10);
    const int widths[] = {8, 8, 9, 8, 8, 15, 13, 8};
    int column = 0;
    for (const int parts : {0, +kCodes, +kExchange, +kTokens, +kCombine, kCodes | kExchange, kCodes | kTokens,
                            kCodes | kExchange | kTokens | kCombine}) {
      work.parts = parts;
      printf(" %*.1f", widths[column++], MedianUs(work, stream, flush, counter_bytes));
    }
    printf("\n");
  }
  return 0;
}
