#include "benchmarks/kernels/device_kernels.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace spotlight::benchmarks {
namespace {

constexpr int kReadThreads = 256;
constexpr int kReadUnroll = 8;
constexpr int64_t kReadBlocks = 132 * 8;  // 2,048 threads on each of Hopper's multiprocessors

__device__ int64_t Nanoseconds() {
  int64_t time;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
  return time;
}

__global__ void SpinKernel(int64_t nanoseconds) {
  const int64_t end = Nanoseconds() + nanoseconds;
  while (Nanoseconds() < end) {
  }
}

__global__ void EmptyKernel() {}

template <bool Streaming>
__global__ void __launch_bounds__(kReadThreads) ReadKernel(const uint4* data, int64_t count, uint32_t* sink) {
  const int64_t stride = int64_t{gridDim.x} * kReadThreads;
  const int64_t first = int64_t{blockIdx.x} * kReadThreads + threadIdx.x;
  uint32_t sum = 0;
  for (int64_t base = first; base < count; base += kReadUnroll * stride) {
    uint4 loaded[kReadUnroll];
#pragma unroll
    for (int u = 0; u < kReadUnroll; ++u) {
      const int64_t i = base + u * stride;
      loaded[u] = i >= count ? make_uint4(0, 0, 0, 0) : Streaming ? __ldcs(data + i) : __ldcg(data + i);
    }
#pragma unroll
    for (int u = 0; u < kReadUnroll; ++u) sum ^= loaded[u].x ^ loaded[u].y ^ loaded[u].z ^ loaded[u].w;
  }
  // Depends on every load, so that none is optimised away; what it writes is there already.
  if (sum == *sink) *sink = sum;
}

void CheckLaunch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", kernel, cudaGetErrorString(error));
  std::exit(1);
}

template <bool Streaming>
void Read(void* stream, const void* data, size_t bytes, uint32_t* sink) {
  const auto count = static_cast<int64_t>(bytes / sizeof(uint4));
  const int64_t blocks = std::clamp<int64_t>((count + kReadThreads - 1) / kReadThreads, 1, kReadBlocks);
  ReadKernel<Streaming>
      <<<blocks, kReadThreads, 0, static_cast<cudaStream_t>(stream)>>>(static_cast<const uint4*>(data), count, sink);
  CheckLaunch("plain read");
}

}  // namespace

void Spin(void* stream, int64_t nanoseconds) {
  SpinKernel<<<1, 1, 0, static_cast<cudaStream_t>(stream)>>>(nanoseconds);
  CheckLaunch("spin");
}

void LaunchEmpty(void* stream) {
  EmptyKernel<<<1, 32, 0, static_cast<cudaStream_t>(stream)>>>();
  CheckLaunch("empty");
}

void ReadPlainly(void* stream, const void* data, size_t bytes, uint32_t* sink) {
  Read<true>(stream, data, bytes, sink);
}

void ReadThroughL2(void* stream, const void* data, size_t bytes, uint32_t* sink) {
  Read<false>(stream, data, bytes, sink);
}

}  // namespace spotlight::benchmarks
