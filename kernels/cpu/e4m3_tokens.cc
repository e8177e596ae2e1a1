#include "kernels/cpu/e4m3_tokens.h"

#include <algorithm>

#include "kernels/cpu/parallel.h"
#include "kernels/e4m3.h"
#include "kernels/numeric.h"

namespace spotlight::kernels::cpu {

void StoreE4m3Row(DType dtype, int32_t size, float* x, void* stored, float* scale) {
  auto* const codes = static_cast<E4m3*>(stored);
  uint32_t largest = 0;
  for (int32_t i = 0; i < size; ++i) largest = std::max(largest, FloatBits(x[i]) & 0x7fffffffu);
  *scale = E4m3PageScale(largest);
  for (int32_t i = 0; i < size; ++i) {
    RoundTo(x[i] / *scale, codes + i);
    float rounded = 0;  // room for any dtype
    StoreElement(ToFloat(codes[i]) * *scale, &rounded, dtype, 0);
    x[i] = LoadElement(&rounded, dtype, 0);
  }
}

void CachedTokens::Read(const void** keys, int32_t count) const {
  if (in_place()) return;
  static thread_local Scratch scratch;
  auto* out = scratch.Get<float>(int64_t{kBlockTokens} * 2 * head_dim_);
  for (int32_t i = 0; i < count; ++i, out += 2 * head_dim_) {
    const auto* const token = static_cast<const char*>(keys[i]);
    const float* const scales = kv_scale_ + (token - kv_) / token_bytes_ * 2;
    kernels_.load_e4m3(token, head_dim_, scales[0], out);
    kernels_.load_e4m3(token + head_dim_, head_dim_, scales[1], out + head_dim_);
    keys[i] = out;
  }
}

}  // namespace spotlight::kernels::cpu
