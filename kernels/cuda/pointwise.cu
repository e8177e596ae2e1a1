#include <cstdint>
#include <initializer_list>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/pointwise.cuh"

namespace spotlight::kernels::cuda {
namespace {

constexpr int kPointwiseThreads = 256;
constexpr int kNormThreads = 1024;
constexpr int kFewTokens = 64;

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
  WaitForPrevious();
  AllowNext();
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

// The same for half precisions, a vector of a row per thread: grid (T), block (as many as a row has, rounded up to
// whole warps, at most kNormThreads).
template <typename T>
__global__ void __launch_bounds__(kNormThreads) AddRmsNormVectors(const AddRmsNormParams params) {
  const bool active = threadIdx.x * kVector < params.hidden;
  const int64_t index = int64_t{blockIdx.x} * params.hidden / kVector + threadIdx.x;
  Vector<T> weight = {}, x = {}, delta = {};
  if (active) weight = static_cast<const Vector<T>*>(params.weight)[threadIdx.x];
  WaitForPrevious();
  AllowNext();  // not before: at most two kernels of the stream overlap
  if (active) {
    x = static_cast<const Vector<T>*>(params.x)[index];
    if (params.delta != nullptr) {
      delta = static_cast<const Vector<T>*>(params.delta)[index];
      for (int i = 0; i < kVector; ++i) RoundTo(ToFloat(x.at[i]) + ToFloat(delta.at[i]), &x.at[i]);
      static_cast<Vector<T>*>(params.x)[index] = x;
    }
  }
  const float squares = WarpSum(AddSquares(x, 0));
  __shared__ float warps[kNormThreads / 32];
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = squares;
  __syncthreads();
  if (!active) return;
  const float scale = NormScale(warps, blockDim.x / 32, 1, params.hidden, params.eps);
  for (int i = 0; i < kVector; ++i) RoundTo(ToFloat(x.at[i]) * scale, &x.at[i]);
  static_cast<Vector<T>*>(params.out)[index] = Product(x, weight);
}

// Grid (T, blocks), block (kPointwiseThreads): a thread per element.
__global__ void SiluMulElements(const SiluMulParams params) {
  WaitForPrevious();
  AllowNext();
  const int64_t token = blockIdx.x;
  const int64_t i = int64_t{blockIdx.y} * kPointwiseThreads + threadIdx.x;
  if (i >= params.intermediate) return;
  const float gate = LoadElement(params.gate_up, params.dtype, 2 * token * params.intermediate + i);
  const float up = LoadElement(params.gate_up, params.dtype, (2 * token + 1) * params.intermediate + i);
  const float silu = Rounded(gate / (1.0f + expf(-gate)), params.dtype);
  StoreElement(silu * up, params.out, params.dtype, token * params.intermediate + i);
}

// The same for half precisions. Grid (enough), block (kPointwiseThreads): a thread per vector of the output.
template <typename T>
__global__ void __launch_bounds__(kPointwiseThreads) SiluMulVectors(const SiluMulParams params) {
  const int vectors = params.intermediate / kVector;
  const int64_t index = int64_t{blockIdx.x} * kPointwiseThreads + threadIdx.x;
  const int64_t token = index / vectors, i = index % vectors;
  WaitForPrevious();
  AllowNext();
  if (token >= params.num_tokens) return;
  const auto* const row = static_cast<const Vector<T>*>(params.gate_up) + 2 * token * vectors;
  const Vector<T> gate = row[i], up = row[vectors + i];
  Vector<T> out;
  for (int j = 0; j < kVector; ++j) RoundTo(SiluTimes<T>(ToFloat(gate.at[j]), ToFloat(up.at[j])), &out.at[j]);
  static_cast<Vector<T>*>(params.out)[index] = out;
}

bool Aligned(std::initializer_list<const void*> pointers) {
  for (const void* const pointer : pointers) {
    if (reinterpret_cast<uintptr_t>(pointer) % sizeof(Vector<__half>) != 0) return false;
  }
  return true;
}

}  // namespace

int AddRmsNorm(const AddRmsNormParams& params) {
  LaunchSequence sequence(params.execution.stream);
  LaunchOptions options;
  options.overlap_previous = true;
  const int vectors = params.hidden / kVector, threads = (vectors + 31) / 32 * 32;
  const bool aligned = Aligned({params.x, params.delta, params.weight, params.out});
  if (params.dtype == DType::kF32 || threads > kNormThreads || !aligned) {
    sequence.LaunchWith(options, AddRmsNormRows, dim3(params.num_tokens), dim3(kPointwiseThreads), 0, params);
  } else if (params.dtype == DType::kBF16) {
    sequence.LaunchWith(options, AddRmsNormVectors<__nv_bfloat16>, dim3(params.num_tokens), dim3(threads), 0, params);
  } else {
    sequence.LaunchWith(options, AddRmsNormVectors<__half>, dim3(params.num_tokens), dim3(threads), 0, params);
  }
  return sequence.error();
}

int SiluMul(const SiluMulParams& params) {
  LaunchSequence sequence(params.execution.stream);
  LaunchOptions options;
  options.overlap_previous = true;
  const int64_t vectors = int64_t{params.num_tokens} * params.intermediate / kVector;
  const dim3 grid(static_cast<unsigned>((vectors + kPointwiseThreads - 1) / kPointwiseThreads));
  // Few tokens are bound by latency: more threads with less to do each.
  const bool few = params.num_tokens < kFewTokens;
  if (few || params.dtype == DType::kF32 || !Aligned({params.gate_up, params.out})) {
    const int blocks = (params.intermediate + kPointwiseThreads - 1) / kPointwiseThreads;
    sequence.LaunchWith(options, SiluMulElements, dim3(params.num_tokens, blocks), dim3(kPointwiseThreads), 0, params);
  } else if (params.dtype == DType::kBF16) {
    sequence.LaunchWith(options, SiluMulVectors<__nv_bfloat16>, grid, dim3(kPointwiseThreads), 0, params);
  } else {
    sequence.LaunchWith(options, SiluMulVectors<__half>, grid, dim3(kPointwiseThreads), 0, params);
  }
  return sequence.error();
}

}  // namespace spotlight::kernels::cuda
