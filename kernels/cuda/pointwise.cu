#include "kernels/cuda/launch.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/numeric.cuh"

namespace spotlight::kernels::cuda {
namespace {

constexpr int kPointwiseThreads = 256;

// x as dtype stores it.
__device__ float Rounded(float x, DType dtype) {
  float stored;
  StoreElement(x, &stored, dtype, 0);
  return LoadElement(&stored, dtype, 0);
}

// The sum of every thread's x, the same in all of them.
__device__ float BlockSum(float x) {
  __shared__ float warps[kPointwiseThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < kPointwiseThreads / 32; ++warp) sum += warps[warp];
  return sum;
}

// Grid (T), block (kPointwiseThreads). A thread owns the same elements in both passes.
__global__ void AddRmsNormRows(const AddRmsNormParams params) {
  const int64_t begin = int64_t{blockIdx.x} * params.hidden;
  float squares = 0;
  for (int i = threadIdx.x; i < params.hidden; i += kPointwiseThreads) {
    float x = LoadElement(params.x, params.dtype, begin + i);
    if (params.delta != nullptr) {
      x = Rounded(x + LoadElement(params.delta, params.dtype, begin + i), params.dtype);
      StoreElement(x, params.x, params.dtype, begin + i);
    }
    squares = fmaf(x, x, squares);
  }
  const float scale = 1.0f / sqrtf(BlockSum(squares) / static_cast<float>(params.hidden) + params.eps);
  for (int i = threadIdx.x; i < params.hidden; i += kPointwiseThreads) {
    const float normalised = Rounded(LoadElement(params.x, params.dtype, begin + i) * scale, params.dtype);
    StoreElement(normalised * LoadElement(params.weight, params.dtype, i), params.out, params.dtype, begin + i);
  }
}

// Grid (T, blocks), block (kPointwiseThreads): a thread per element.
__global__ void SiluMulElements(const SiluMulParams params) {
  const int64_t token = blockIdx.x;
  const int64_t i = int64_t{blockIdx.y} * kPointwiseThreads + threadIdx.x;
  if (i >= params.intermediate) return;
  const float gate = LoadElement(params.gate_up, params.dtype, 2 * token * params.intermediate + i);
  const float up = LoadElement(params.gate_up, params.dtype, (2 * token + 1) * params.intermediate + i);
  const float silu = Rounded(gate / (1.0f + expf(-gate)), params.dtype);
  StoreElement(silu * up, params.out, params.dtype, token * params.intermediate + i);
}

}  // namespace

int AddRmsNorm(const AddRmsNormParams& params) {
  LaunchSequence sequence(params.execution.stream);
  sequence.Launch(AddRmsNormRows, dim3(params.num_tokens), dim3(kPointwiseThreads), 0, params);
  return sequence.error();
}

int SiluMul(const SiluMulParams& params) {
  LaunchSequence sequence(params.execution.stream);
  const int blocks = (params.intermediate + kPointwiseThreads - 1) / kPointwiseThreads;
  sequence.Launch(SiluMulElements, dim3(params.num_tokens, blocks), dim3(kPointwiseThreads), 0, params);
  return sequence.error();
}

}  // namespace spotlight::kernels::cuda
