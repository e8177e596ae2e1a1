// Storage types on the device: loads as float, stores rounded to nearest even.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/layout.h"

namespace spotlight::kernels::cuda {

__device__ inline float ToFloat(float x) {
  return x;
}
__device__ inline float ToFloat(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ inline float ToFloat(__half x) {
  return __half2float(x);
}

__device__ inline void RoundTo(float x, float* out) {
  *out = x;
}
__device__ inline void RoundTo(float x, __nv_bfloat16* out) {
  *out = __float2bfloat16_rn(x);
}
__device__ inline void RoundTo(float x, __half* out) {
  *out = __float2half_rn(x);
}

__device__ inline float LoadElement(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kF32:
      return static_cast<const float*>(data)[index];
    case DType::kBF16:
      return ToFloat(static_cast<const __nv_bfloat16*>(data)[index]);
    default:
      return ToFloat(static_cast<const __half*>(data)[index]);
  }
}

__device__ inline void StoreElement(float x, void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kF32:
      return RoundTo(x, static_cast<float*>(data) + index);
    case DType::kBF16:
      return RoundTo(x, static_cast<__nv_bfloat16*>(data) + index);
    default:
      return RoundTo(x, static_cast<__half*>(data) + index);
  }
}

}  // namespace spotlight::kernels::cuda
